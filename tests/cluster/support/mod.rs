//! Real `mhub` processes on loopback, started, killed and stopped by a test.

pub(crate) mod load;
pub(crate) mod target;
pub(crate) mod worker;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a cluster may take to serve again after a fault.
pub(crate) const SERVING_WITHIN: Duration = Duration::from_secs(10);

/// One node: its directory, its ports, and its process while it runs.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
    dir: PathBuf,
    settings: Vec<(String, String)>,
    process: Option<Child>,
}

impl Node {
    /// A node with ports of its own and an empty directory.
    pub(crate) fn new(id: u64, root: &Path) -> Self {
        let dir = root.join(format!("node-{id}"));
        std::fs::create_dir_all(&dir).unwrap();
        Self {
            id,
            client_port: free_port(),
            peer_port: free_port(),
            dir,
            settings: Vec::new(),
            process: None,
        }
    }

    /// Sets a configuration value by its environment variable.
    pub(crate) fn set(&mut self, variable: &str, value: impl ToString) -> &mut Self {
        self.settings.retain(|(name, _)| name != variable);
        self.settings.push((variable.to_owned(), value.to_string()));
        self
    }

    /// Forgets a configuration value.
    #[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "only faults need it"))]
    pub(crate) fn unset(&mut self, variable: &str) {
        self.settings.retain(|(name, _)| name != variable);
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What the node wrote to its log so far, over all of its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts the process; it need not be ready when this returns.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mhub"));
        command
            .arg("serve")
            .current_dir(&self.dir)
            .env("MHUB_NODE_ID", self.id.to_string())
            .env("MHUB_NODE_DATA_DIR", self.data_dir())
            .env("MHUB_LISTEN_CLIENT", self.endpoint())
            .env("MHUB_LISTEN_PEER", format!("127.0.0.1:{}", self.peer_port))
            .envs(self.settings.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let mut process = self.process.take()?;
        let pid = process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = wait_exit(&mut process, Duration::from_secs(30))
            .unwrap_or_else(|| panic!("node {} did not stop in 30 s:\n{}", self.id, self.log()));
        status.code()
    }

    /// Waits for the process to end by itself, and gives its exit code.
    pub(crate) fn wait_exit(&mut self, within: Duration) -> Option<i32> {
        let status = wait_exit(self.process.as_mut()?, within)?;
        self.process = None;
        status.code()
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn wait_exit(process: &mut Child, within: Duration) -> Option<std::process::ExitStatus> {
    let mut status = None;
    poll(within, || {
        status = process.try_wait().unwrap();
        status.is_some()
    });
    status
}

/// Several nodes and the directory that holds them.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    root: TempDir,
}

impl Cluster {
    /// A cluster of `size` voters that serves. `settings` are environment variables for each node.
    pub(crate) fn start(size: u64, settings: &[(&str, &str)]) -> Self {
        let mut cluster = Self { nodes: Vec::new(), root: tempfile::tempdir().unwrap() };
        for id in 1..=size {
            cluster.start_node(id, settings);
        }
        cluster.mhub(0, &["cluster", "init"]).succeeds();
        for index in 1..usize::try_from(size).unwrap() {
            cluster.join(index);
            cluster.promote(index);
        }
        cluster.await_serving();
        cluster
    }

    /// Starts one more node, which does not belong to the cluster yet; returns its index.
    pub(crate) fn start_node(&mut self, id: u64, settings: &[(&str, &str)]) -> usize {
        let mut node = Node::new(id, self.root.path());
        for (name, value) in settings {
            node.set(name, value);
        }
        node.start();
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.await_answering(index);
        index
    }

    /// Starts a node that claims the id of another, in a directory of its own; returns its index.
    pub(crate) fn start_twin(&mut self, id: u64) -> usize {
        let mut node = Node::new(id, &self.root.path().join("twins"));
        node.start();
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.await_answering(index);
        index
    }

    /// Makes a started node a learner of the cluster that the first running node belongs to.
    pub(crate) fn join(&self, index: usize) {
        let member = (0..self.nodes.len()).find(|i| *i != index && self.nodes[*i].runs()).unwrap();
        let to = self.nodes[member].endpoint();
        self.mhub(index, &["cluster", "join", &to]).succeeds();
    }

    /// Makes a learner a voter, as soon as it is caught up.
    pub(crate) fn promote(&self, index: usize) {
        let id = self.nodes[index].id.to_string();
        let mut last = String::new();
        let done = poll(Duration::from_secs(60), || {
            let run = self.admin(&["cluster", "promote", &id]);
            last = run.all();
            run.code() == 0
        });
        assert!(done, "node {id} was not promoted: {last}");
    }

    /// A client command against one node.
    pub(crate) fn mhub(&self, index: usize, args: &[&str]) -> Run {
        mhub(&self.nodes[index].endpoint(), args)
    }

    /// A client command that may go to any running node.
    pub(crate) fn admin(&self, args: &[&str]) -> Run {
        mhub(&self.endpoints().join(","), args)
    }

    /// The client endpoints of the nodes that run.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().filter(|n| n.runs()).map(Node::endpoint).collect()
    }

    /// The client endpoints of all nodes, running or not.
    pub(crate) fn all_endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(Node::endpoint).collect()
    }

    /// Waits until a node answers status.
    pub(crate) fn await_answering(&self, index: usize) {
        let node = &self.nodes[index];
        let answers = poll(SERVING_WITHIN, || {
            self.mhub(index, &["cluster", "status", "-o", "json"]).code() == 0
        });
        assert!(answers, "node {} does not answer:\n{}", node.id, tail(&node.log()));
    }

    /// Waits until a leader serves linearizable reads.
    pub(crate) fn await_serving(&self) {
        let started = Instant::now();
        let mut last = String::new();
        let serves = poll(SERVING_WITHIN, || {
            let run = self.admin(&["topic", "ls", "-o", "json"]);
            last = run.all();
            run.code() == 0
        });
        assert!(
            serves,
            "not serving after {:?}: {last}\n{}",
            started.elapsed(),
            self.nodes
                .iter()
                .map(|n| format!("--- node {}\n{}", n.id, tail(&n.log())))
                .collect::<String>()
        );
    }

    /// The index of the leader among the running nodes.
    pub(crate) fn leader(&self) -> usize {
        let mut leader = None;
        poll(SERVING_WITHIN, || {
            leader = (0..self.nodes.len()).find(|i| {
                self.nodes[*i].runs() && {
                    let status = self.status(*i);
                    status["state"] == "leader" && status["has_quorum"] == true
                }
            });
            leader.is_some()
        });
        leader.expect("a leader within the time to serve")
    }

    /// A node's status as JSON; null when it does not answer.
    pub(crate) fn status(&self, index: usize) -> serde_json::Value {
        let run = self.mhub(index, &["cluster", "status", "-o", "json"]);
        serde_json::from_str(&run.stdout()).unwrap_or_default()
    }

    /// A number in a node's status; 0 when it does not answer.
    pub(crate) fn number(&self, index: usize, field: &str) -> u64 {
        self.status(index)[field].as_str().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Compares the state hashes of all nodes.
    pub(crate) fn verify(&self) {
        let mut last = String::new();
        let equal = poll(Duration::from_secs(60), || {
            let run = self.admin(&["cluster", "verify"]);
            last = run.all();
            run.code() == 0
        });
        assert!(equal, "verify: {last}");
    }
}

/// How a command ended.
pub(crate) struct Run {
    args: String,
    output: Output,
}

impl Run {
    pub(crate) fn code(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Everything, for messages.
    pub(crate) fn all(&self) -> String {
        format!("mhub {} → {}\n{}{}", self.args, self.code(), self.stdout(), self.stderr())
    }

    /// The JSON document on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        self.succeeds();
        serde_json::from_str(&self.stdout()).unwrap_or_else(|e| panic!("{e}: {}", self.all()))
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Self {
        assert_eq!(self.code(), 0, "{}", self.all());
        self
    }

    /// Failed with this exit code, and the message names this.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, says: &str) -> &Self {
        assert_eq!(self.code(), code, "{}", self.all());
        assert!(self.stderr().contains(says), "wanted {says:?} in: {}", self.all());
        self
    }
}

/// Runs a client command.
pub(crate) fn mhub(endpoint: &str, args: &[&str]) -> Run {
    mhub_with_input(endpoint, args, None)
}

/// Runs a client command with something on its standard input.
pub(crate) fn mhub_with_input(endpoint: &str, args: &[&str], input: Option<&str>) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mhub"))
        .args(args)
        .env("MHUB_ENDPOINT", endpoint)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // What it prints has to be read meanwhile. It may end before it has read everything; that
            // is for the caller to judge.
            scope.spawn(move || drop(std::io::Write::write_all(&mut stdin, input.as_bytes())));
        }
        Run { args: args.join(" "), output: child.wait_with_output().unwrap() }
    })
}

/// A port that was free a moment ago, and that the system does not give to outgoing connections:
/// it has to be free again when its node is restarted.
pub(crate) fn free_port() -> u16 {
    const BELOW_EPHEMERAL: std::ops::Range<u64> = 10_000..32_000;
    loop {
        let (drawn, _) = uuid::Uuid::new_v4().as_u64_pair();
        let port = BELOW_EPHEMERAL.start + drawn % (BELOW_EPHEMERAL.end - BELOW_EPHEMERAL.start);
        let port = u16::try_from(port).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Asks again until it holds or the time is over; says whether it held.
pub(crate) fn poll(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if started.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The end of a log, for messages.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n") + "\n"
}

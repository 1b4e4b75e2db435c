//! One run, from an empty directory to a verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

use crate::checker::{Verdict, judge};
use crate::cluster::{Cluster, Plan};
use crate::history::{Line, Recorder, RunInfo, load};
use crate::nemesis::{Nemesis, Pace, World};
use crate::report;
use crate::sandbox::{self, Reach};
use crate::tools::say;
use crate::workload::{FENCE, Shared, Workload};

/// How long clients may take to end after their last operation.
const CLIENTS_END_WITHIN: Duration = Duration::from_secs(30);
/// Runs that are shorter get shorter faults, so that there are enough of them.
const LONG_RUN_S: u64 = 120;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What clients do.
    pub workload: Workload,
    /// What breaks.
    pub nemeses: Vec<Nemesis>,
    /// Nodes at the start.
    pub nodes: u8,
    /// Operations a second.
    pub rate: u32,
    /// How long faults are made, seconds.
    pub time_s: u64,
    /// The fault-free end, seconds.
    pub calm_s: u64,
    /// Everything that is drawn comes from it.
    pub seed: u64,
    /// How often each fault must have been there.
    pub installed_min: u32,
    /// The binary to test.
    pub mhub: PathBuf,
    /// Where runs are kept; each gets a directory of its own.
    pub runs: PathBuf,
    /// Settings of the nodes, by their environment variable.
    pub settings: Vec<(&'static str, String)>,
}

impl Options {
    fn info(&self) -> RunInfo {
        RunInfo {
            workload: self.workload.name().to_owned(),
            nemeses: self.nemeses.iter().map(|n| n.name().to_owned()).collect(),
            nodes: self.nodes,
            rate: self.rate,
            time_s: self.time_s,
            calm_s: self.calm_s,
            seed: self.seed,
            installed_min: self.installed_min,
        }
    }

    fn name(&self) -> String {
        let nemeses: Vec<&str> = self.nemeses.iter().map(|n| n.name()).collect();
        let nemeses = if nemeses.is_empty() { "none".to_owned() } else { nemeses.join("+") };
        format!("{}-{nemeses}-{}", self.workload.name(), self.seed)
    }
}

/// Runs, judges, and leaves everything in a directory; the verdict and that directory.
///
/// # Errors
/// When the run could not be brought to its end, which says nothing good either.
pub async fn run(options: Options) -> anyhow::Result<(Verdict, PathBuf)> {
    let dir = new_directory(&options)?;
    say(format!("run {}", dir.display()));
    let history = dir.join("history.jsonl");
    let recorder = Arc::new(Recorder::create(&history, options.info())?);
    let ran = tokio::select! {
        ran = play(&options, &dir, &recorder) => ran,
        () = sandbox::asked_to_stop() => Err(anyhow::anyhow!("stopped on request")),
    };
    recorder.flush()?;
    ran.with_context(|| format!("see {}", dir.display()))?;
    let verdict = conclude(&history)?;
    Ok((verdict, dir))
}

/// Judges a history and writes verdict and report beside it.
///
/// # Errors
/// When the history cannot be read, or the files not be written.
pub fn conclude(history: &Path) -> anyhow::Result<Verdict> {
    let lines = load(history)?;
    let verdict = judge(&lines)?;
    let beside = |name| history.with_file_name(name);
    std::fs::write(beside("verdict.json"), serde_json::to_vec_pretty(&verdict)?)?;
    std::fs::write(beside("report.html"), report::html(&lines, &verdict)?)?;
    Ok(verdict)
}

fn new_directory(options: &Options) -> anyhow::Result<PathBuf> {
    let mut number = 0;
    loop {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let dir = options.runs.join(options.name() + &suffix);
        std::fs::create_dir_all(&options.runs)
            .with_context(|| format!("create {}", options.runs.display()))?;
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(std::fs::canonicalize(dir)?),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error).context(format!("create {}", dir.display())),
        }
    }
}

async fn play(options: &Options, dir: &Path, recorder: &Arc<Recorder>) -> anyhow::Result<()> {
    let (reach, why) = sandbox::reach();
    if let Some(why) = why {
        say(why);
    }
    if let Some(beyond) =
        options.nemeses.iter().find(|n| n.needs() != reach && reach == Reach::Processes)
    {
        bail!("{} needs root and the programs that are named above", beyond.name());
    }
    if reach == Reach::Everything {
        sandbox::prepare().await.context("prepare the sandbox")?;
    }
    let plan = Plan {
        nodes: options.nodes,
        mhub: options.mhub.clone(),
        dir: dir.to_owned(),
        settings: options.settings.clone(),
        disks: options.nemeses.iter().any(|n| n.needs_disks()),
        clocks: options.nemeses.contains(&Nemesis::Clock),
        reach,
    };
    let cluster = Cluster::start(plan, Arc::clone(recorder)).await.context("start the cluster")?;
    let shared = Arc::new(Shared::new(
        cluster.endpoints(),
        options.nodes,
        options.rate,
        options.seed,
        Arc::clone(recorder),
    ));
    let mut clients = options.workload.start(&shared).await?;
    let mut world = World::new(cluster, options.seed, Arc::clone(recorder));
    let time = Duration::from_secs(options.time_s);
    world.haunt(&options.nemeses, time, pace(options.time_s)).await?;
    // A hub that does not come back is a finding: the run is judged by what there is.
    let found = |what, ended| recorder.expect(0, what, ended);
    found("make all nodes members again", world.cluster.settle().await);
    recorder.tell(|at_us| Line::Calm { at_us });
    say(format!("no faults for {} s", options.calm_s));
    tokio::time::sleep(Duration::from_secs(options.calm_s)).await;
    world.cluster.look_after()?;
    found("let consumers finish", options.workload.finish(&shared).await);
    shared.stop();
    end_clients(&mut clients).await?;
    tokio::time::sleep(FENCE).await;
    found("compare the states", world.cluster.verify().await);
    found("read back", options.workload.read_back(&shared, &world.cluster).await);
    world.cluster.look_after()?;
    world.cluster.read_logs()?;
    world.cluster.end().await
}

async fn end_clients(clients: &mut JoinSet<()>) -> anyhow::Result<()> {
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended.context("a client of the workload")?;
        }
        Ok(())
    };
    tokio::time::timeout(CLIENTS_END_WITHIN, all)
        .await
        .with_context(|| format!("a client hangs: no end after {CLIENTS_END_WITHIN:?}"))?
}

fn pace(time_s: u64) -> Pace {
    let (hold, rest) = if time_s >= LONG_RUN_S { (8000, 3000) } else { (3000, 1500) };
    Pace { hold_max: Duration::from_millis(hold), rest_max: Duration::from_millis(rest) }
}

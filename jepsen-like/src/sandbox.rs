//! Namespaces of the run's own: network, mounts and processes.
//!
//! The run is started again inside of them, as the first process. Whatever ends that process, a
//! signal, a crash or the end of the run, ends every process in there with it, and with the last of
//! them go the network, the mounts and their loop devices. The kernel cleans up; nothing outlives a
//! run, so that nothing has to be looked for at the next start.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::memory;
use crate::tools::{command, installed, say};

/// Tells the inner process that it is in the sandbox, with the id of the outer one.
pub const INSIDE: &str = "JEPSEN_LIKE_INSIDE";
/// How long the inner process may take to end by itself.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Programs of Debian packages that faults need.
const PROGRAMS: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("mkfs.ext4", "e2fsprogs"),
    ("perl", "perl-base"),
];

/// What this process can do to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In a sandbox: everything.
    Everything,
    /// Without root: faults of processes and of membership only.
    Processes,
}

/// What a run can reach here, and why it is not everything.
#[must_use]
pub fn reach() -> (Reach, Option<String>) {
    if inside() {
        return (Reach::Everything, None);
    }
    if !rustix::process::geteuid().is_root() {
        let why = "not root: only faults of processes and membership are made".to_owned();
        return (Reach::Processes, Some(why));
    }
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(p, _)| !installed(p)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return match forbidden() {
            None => (Reach::Everything, None),
            Some(what) => {
                let why = format!("{what}: only faults of processes and membership are made");
                (Reach::Processes, Some(why))
            }
        };
    }
    let why = format!(
        "only faults of processes and membership are made; for all run: apt-get install -y {}",
        missing.join(" ")
    );
    (Reach::Processes, Some(why))
}

/// What root itself may not do here, as in most containers.
fn forbidden() -> Option<&'static str> {
    let works = |program: &str, args: &[&str]| {
        let mut probe = std::process::Command::new(program);
        probe.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    if !works("unshare", &["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]) {
        return Some("namespaces cannot be made here");
    }
    (!works("losetup", &["--find"])).then_some("there are no loop devices here")
}

/// Whether this is the inner process.
#[must_use]
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// A name that no other run has at the same time.
#[must_use]
pub fn run_name() -> String {
    let outer = std::env::var(INSIDE).ok();
    outer.unwrap_or_else(|| std::process::id().to_string())
}

/// Runs this program again with the same arguments, in namespaces of its own. The inner process is
/// told to end by the end of its standard input.
///
/// # Errors
/// When the namespaces cannot be made.
pub async fn enter() -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("find this program")?;
    let mut child = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, std::process::id().to_string())
        .stdin(Stdio::piped())
        // Ctrl-C reaches this process alone, which then asks the inner one to end.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("start unshare")?;
    let pipe = child.stdin.take();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let status = tokio::select! {
        status = child.wait() => status?,
        _ = interrupt.recv() => end(&mut child, pipe).await?,
        _ = terminate.recv() => end(&mut child, pipe).await?,
    };
    memory::sweep(&run_name());
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, Into::into))
}

async fn end(
    child: &mut tokio::process::Child,
    pipe: Option<tokio::process::ChildStdin>,
) -> anyhow::Result<std::process::ExitStatus> {
    say("stopping");
    drop(pipe);
    if let Ok(status) = tokio::time::timeout(ENDS_WITHIN, child.wait()).await {
        return Ok(status?);
    }
    child.kill().await?;
    Ok(child.wait().await?)
}

/// Completes when the run is asked to stop.
pub async fn asked_to_stop() {
    if inside() {
        let mut byte = [0];
        // Nothing is ever written: this returns when the outer process closes the pipe or is gone.
        let _ = tokio::io::AsyncReadExt::read(&mut tokio::io::stdin(), &mut byte).await;
    } else {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Prepares the network of the sandbox: loopback, and empty sets of cut and reset directions.
///
/// # Errors
/// When a command fails.
pub async fn prepare() -> anyhow::Result<()> {
    const RULES: &str = "
        table ip chaos {
            set cut { type ipv4_addr . ipv4_addr; }
            set torn { type ipv4_addr . ipv4_addr; }
            set few { type ipv4_addr . ipv4_addr; }
            set many { type ipv4_addr . ipv4_addr; }
            counter hits { }
            chain input {
                type filter hook input priority 0;
                ip saddr . ip daddr @cut counter name hits drop
                ip saddr . ip daddr @few numgen random mod 100 < 3 counter name hits drop
                ip saddr . ip daddr @many numgen random mod 100 < 20 counter name hits drop
                meta l4proto tcp ip saddr . ip daddr @torn counter name hits reject with tcp reset
            }
        }";
    command("mount", &["--make-rprivate", "/"]).await?;
    command("ip", &["link", "set", "lo", "up"]).await?;
    command("nft", &[RULES]).await?;
    Ok(())
}

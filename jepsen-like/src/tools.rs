//! The clock, tasks, commands and the terminal: what the rest of the harness touches the world with.

use std::future::Future;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// How long a command of the system may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the harness is outside of the hub")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Starts a task.
#[expect(clippy::disallowed_methods, reason = "the harness is outside of the hub")]
pub fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task)
}

/// Says a line to whoever watches.
pub fn say(line: impl AsRef<str>) {
    // Whoever watched may be gone; the run goes on for its files.
    let _ = writeln!(std::io::stdout().lock(), "{}", line.as_ref());
}

/// Runs a command of the system and gives what it printed.
///
/// # Errors
/// When it cannot be started, does not end in time or fails; with what it said.
pub async fn command(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let told = || format!("{program} {}", args.join(" "));
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}; is it installed?", told()))?;
    let output = tokio::time::timeout(COMMAND_WITHIN, child.wait_with_output())
        .await
        .with_context(|| format!("{} did not end within {COMMAND_WITHIN:?}", told()))??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", told(), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program is on the PATH.
#[must_use]
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Asks until the answer is `Some`, or the time is over.
pub async fn poll<T, F: Future<Output = Option<T>>>(
    within: Duration,
    mut ask: impl FnMut() -> F,
) -> Option<T> {
    const EVERY: Duration = Duration::from_millis(50);
    let until = now() + within;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if now() >= until {
            return None;
        }
        tokio::time::sleep(EVERY).await;
    }
}

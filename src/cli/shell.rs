//! Commands of the shell that get the payload of an event.

use std::io::Write as _;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

use super::Failure;

/// Bytes that are kept of what a command said last.
const LAST_WORDS_BYTES_MAX: usize = 1024;
/// How long a command is still heard once it has ended: what it leaves running may hold its standard error open.
const ECHO: Duration = Duration::from_millis(100);

/// What the command makes of a payload; `None`: it failed.
pub(super) async fn transform(command: &str, data: &[u8]) -> Result<Option<Bytes>, Failure> {
    let mut running = start(command, Stdio::piped(), Stdio::inherit())?;
    let stdin = running.stdin.take();
    let ((), output) = tokio::join!(feed(stdin, data), running.wait_with_output());
    let output = output.map_err(anyhow::Error::from)?;
    Ok(output.status.success().then(|| output.stdout.into()))
}

/// Gives the command a payload, and waits until it has ended; how it failed, with its last words, if it did. What it
/// says is passed on.
pub(super) async fn hand(command: &str, data: &[u8]) -> Result<Option<String>, Failure> {
    let mut running = start(command, Stdio::inherit(), Stdio::piped())?;
    let (stdin, stderr) = (running.stdin.take(), running.stderr.take());
    let mut last = Vec::new();
    let ended = {
        let work = pin!(async { tokio::join!(feed(stdin, data), running.wait()).1 });
        let heard = pin!(hear(stderr, &mut last));
        match select(work, heard).await {
            Either::Left((ended, heard)) => {
                drop(tokio::time::timeout(ECHO, heard).await);
                ended
            }
            Either::Right(((), work)) => work.await,
        }
    };
    let status = ended.map_err(anyhow::Error::from)?;
    Ok((!status.success()).then(|| match last_words(&last) {
        words if words.is_empty() => status.to_string(),
        words => format!("{status}: {words}"),
    }))
}

/// It ends when nobody waits for it any more.
fn start(command: &str, stdout: Stdio, stderr: Stdio) -> Result<Child, Failure> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
    Ok(shell.kill_on_drop(true).spawn().map_err(anyhow::Error::from)?)
}

async fn feed(stdin: Option<ChildStdin>, data: &[u8]) {
    if let Some(mut stdin) = stdin {
        // A command need not read what it is told.
        drop(stdin.write_all(data).await);
    }
}

/// Passes on what is said, and keeps the end of it.
async fn hear(stderr: Option<ChildStderr>, last: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut said = [0; LAST_WORDS_BYTES_MAX];
    while let Ok(count @ 1..) = stderr.read(&mut said).await {
        let said = said.get(..count).unwrap_or_default();
        // Failing to say so is not worth failing for.
        drop(std::io::stderr().write_all(said));
        last.extend_from_slice(said);
        last.drain(..last.len().saturating_sub(LAST_WORDS_BYTES_MAX));
    }
}

/// The last line that says something.
fn last_words(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.unwrap_or_default().chars().filter(|char| !char.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    #[test]
    fn the_last_line_that_says_something_is_told() {
        for (said, words) in [
            ("", ""),
            ("\n \n", ""),
            ("gone", "gone"),
            ("first\n  then this \r\n\n", "then this"),
            ("a \u{1b}[31mred\u{7} one\n", "a [31mred one"),
        ] {
            assert_eq!(last_words(said.as_bytes()), words, "{said:?}");
        }
        assert_eq!(last_words(b"\xff!"), "\u{fffd}!");
    }

    #[tokio::test]
    async fn a_command_gets_a_payload_and_its_end_is_told() {
        let gives = async |command| transform(command, b"paid").await.unwrap();
        assert_eq!(gives("tr a-z A-Z").await.unwrap(), "PAID");
        assert_eq!(gives("cat; exit 3").await, None);
        let ends = async |command| hand(command, b"paid").await.unwrap();
        assert_eq!(ends("test $(cat) = paid").await, None);
        assert_eq!(ends("exit 4").await.unwrap(), "exit status: 4");
        assert_eq!(
            ends("cat >&2; echo ' twice' >&2; exit 3").await.unwrap(),
            "exit status: 3: paid twice"
        );
        // Of a long story the end.
        let long = "i=0; while [ $i -lt 300 ]; do echo no $i >&2; i=$((i+1)); done; exit 1";
        assert_eq!(ends(long).await.unwrap(), "exit status: 1: no 299");
        // It need not read, however much it is told.
        assert_eq!(hand("exit 0", &vec![b'x'; 1 << 20]).await.unwrap(), None);
        // What it leaves running is not waited for.
        let began = clock::now();
        let left = "sleep 20 >/dev/null & echo gone >&2; exit 3";
        assert_eq!(ends(left).await.unwrap(), "exit status: 3: gone");
        assert!(clock::now() - began < Duration::from_secs(10));
    }
}

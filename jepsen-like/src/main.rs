//! The binary `jepsen-like`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use jepsen_like::checker::Verdict;
use jepsen_like::cluster::find_mhub;
use jepsen_like::matrix::{Extent, Pair, pairs};
use jepsen_like::nemesis::{self, Nemesis};
use jepsen_like::run::{self, Options};
use jepsen_like::sandbox::{self, Reach};
use jepsen_like::tools::say;
use jepsen_like::workload::{self, Workload};

/// Breaks a cluster of real nodes while clients use it, and judges what they saw.
///
/// Faults of network and disk need root; they happen in namespaces of the run's own, which end with
/// it. Exits with 0 when everything passes, with 1 when it does not.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  jepsen-like run --workload W2 --nemesis N1,N8 --time 60\n  jepsen-like matrix --quick\n  jepsen-like check runs/W2-N8-1-7/history.jsonl"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run.
    Run {
        /// What clients do; `list` names them.
        #[arg(long, value_parser = Workload::parse)]
        workload: Workload,
        /// What breaks, in turn; `list` names them. None: nothing breaks.
        #[arg(long, value_delimiter = ',', value_parser = Nemesis::parse)]
        nemesis: Vec<Nemesis>,
        /// Nodes at the start.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
        nodes: u8,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        place: Place,
    },
    /// Workloads and faults.
    List,
    /// Judge a saved history again.
    Check {
        /// `history.jsonl` of a run.
        history: PathBuf,
    },
    /// Runs, one after the other, that bring workloads and faults together.
    Matrix {
        /// A few of them, short.
        #[arg(long, conflicts_with = "full")]
        quick: bool,
        /// All of them. The default.
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        place: Place,
    },
}

/// How long and how hard.
#[derive(Clone, Debug, Args)]
struct Length {
    /// Seconds with faults.
    #[arg(long, default_value_t = 60)]
    time: u64,
    /// Seconds without at the end.
    #[arg(long, default_value_t = 60)]
    calm: u64,
    /// Operations a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Everything that is drawn comes from it; default: drawn, and told.
    #[arg(long)]
    seed: Option<u64>,
    /// How often each fault must really have been there.
    #[arg(long, default_value_t = 3)]
    installed_min: u32,
}

/// What is run and where.
#[derive(Clone, Debug, Args)]
struct Place {
    /// The binary to test; default: `mhub` beside this program.
    #[arg(long)]
    mhub: Option<PathBuf>,
    /// Where runs are kept.
    #[arg(long, default_value = "chaos-runs")]
    runs: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format!("error: start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(dispatch(cli.command));
    // A read of standard input may still wait; nobody needs it any more.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        say(format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List => {
            list();
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { history } => {
            let verdict = run::conclude(&history)?;
            tell(&verdict);
            Ok(exit(verdict.pass))
        }
        Command::Run { .. } if !sandbox::inside() && sandbox::reach().0 == Reach::Everything => {
            sandbox::enter().await
        }
        Command::Run { workload, nemesis, nodes, length, place } => {
            let options = Options {
                workload,
                nemeses: nemesis,
                nodes,
                rate: length.rate,
                time_s: length.time,
                calm_s: length.calm,
                seed: seed(&length),
                installed_min: length.installed_min,
                mhub: find_mhub(place.mhub.as_deref())?,
                runs: place.runs,
                settings: Vec::new(),
            };
            let (verdict, dir) = run::run(options).await?;
            tell(&verdict);
            say(format!("report: {}", dir.join("report.html").display()));
            Ok(exit(verdict.pass))
        }
        Command::Matrix { quick, full: _, length, place } => {
            matrix(if quick { Extent::Quick } else { Extent::Full }, &length, &place).await
        }
    }
}

fn seed(length: &Length) -> u64 {
    length.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000))
}

fn exit(pass: bool) -> ExitCode {
    if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() {
    say("workloads");
    for (name, _, what) in workload::ALL {
        say(format!("  {name:<4} {what}"));
    }
    say("nemeses");
    for (name, kind, what) in nemesis::ALL {
        let root = if kind.needs() == Reach::Everything { " (needs root)" } else { "" };
        say(format!("  {name:<4} {what}{root}"));
    }
}

fn tell(verdict: &Verdict) {
    for check in &verdict.checks {
        let word = if check.passes() { "pass" } else { "FAIL" };
        let figures: Vec<String> =
            check.figures.iter().map(|(name, value)| format!("{value} {name}")).collect();
        say(format!("{word}  {:<18} {}", check.name, figures.join(", ")));
        for finding in &check.findings {
            say(format!("        {finding}"));
        }
        if check.wrong > check.findings.len() as u64 {
            say(format!("        … {} in all", check.wrong));
        }
    }
    say(if verdict.pass { "PASS" } else { "FAIL" });
}

/// Each pair is a run of its own process: it gets a sandbox of its own.
async fn matrix(extent: Extent, length: &Length, place: &Place) -> anyhow::Result<ExitCode> {
    let first_seed = seed(length);
    let mut failed = Vec::new();
    let reach = sandbox::reach().0;
    for (seed, pair) in (first_seed..).zip(pairs(extent)) {
        let name = format!("{} {}", pair.workload.name(), names(&pair));
        if reach == Reach::Processes && pair.nemeses.iter().any(|n| n.needs() == Reach::Everything)
        {
            say(format!("== {name}: needs root, not run"));
            failed.push(name);
            continue;
        }
        say(format!("== {name}"));
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.args(["run", "--workload", pair.workload.name(), "--nemesis", &names(&pair)]);
        command.args(["--nodes", &pair.nodes.to_string(), "--seed", &seed.to_string()]);
        command.args(["--time", &length.time.to_string(), "--calm", &length.calm.to_string()]);
        command.args(["--rate", &length.rate.to_string()]);
        command.args(["--installed-min", &length.installed_min.to_string()]);
        command.arg("--runs").arg(&place.runs).kill_on_drop(true);
        if let Some(mhub) = &place.mhub {
            command.arg("--mhub").arg(mhub);
        }
        if !command.status().await?.success() {
            failed.push(name);
        }
    }
    say(format!("== {} of the matrix failed", failed.len()));
    failed.iter().for_each(|name| say(format!("   {name}")));
    Ok(exit(failed.is_empty()))
}

fn names(pair: &Pair) -> String {
    pair.nemeses.iter().map(|n| n.name()).collect::<Vec<_>>().join(",")
}

//! The binary `jepsen-like`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use jepsen_like::checker::Verdict;
use jepsen_like::cluster::find_mhub;
use jepsen_like::matrix::{self, Extent, Pair, Sum, pairs};
use jepsen_like::nemesis::{self, Nemesis};
use jepsen_like::plant::{self, Plan, Told};
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
        /// A bug to plant in the hub, which has to be a build with the feature `planted`.
        #[arg(long)]
        plant: Option<String>,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        place: Place,
    },
    /// Workloads, faults, and bugs that can be planted.
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
    /// Runs against a hub with a bug that was planted; each of them has to find it.
    ///
    /// `--mhub` names a build with the feature `planted`. A run that fails for another reason than
    /// the bug has not found it; of ten runs nine have to.
    Plant {
        /// Which bug; `list` names them. `all`: one after the other.
        #[arg(value_parser = bugs)]
        bug: Bugs,
        /// How many runs.
        #[arg(long, default_value_t = plant::RUNS)]
        runs_each: u32,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        place: Place,
    },
}

/// Bugs to plant.
#[derive(Clone, Debug)]
struct Bugs(Vec<Plan>);

fn bugs(name: &str) -> Result<Bugs, String> {
    if name == "all" { Ok(Bugs(plant::plans())) } else { Ok(Bugs(vec![plant::parse(name)?])) }
}

/// How long and how hard.
#[derive(Clone, Debug, Args)]
struct Length {
    /// Seconds with faults; default: 60, in a matrix as long as it takes.
    #[arg(long)]
    time: Option<u64>,
    /// Seconds without at the end; default: 60, in a matrix less.
    #[arg(long)]
    calm: Option<u64>,
    /// Operations a second; default: 200, in a matrix more.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: Option<u32>,
    /// Everything that is drawn comes from it; default: drawn, and told.
    #[arg(long)]
    seed: Option<u64>,
    /// How often each fault must really have been there; default: 3, in a matrix 2.
    #[arg(long)]
    installed_min: Option<u32>,
}

impl Length {
    fn or(&self, default: matrix::Length) -> matrix::Length {
        matrix::Length {
            time_s: self.time.unwrap_or(default.time_s),
            calm_s: self.calm.unwrap_or(default.calm_s),
            rate: self.rate.unwrap_or(default.rate),
            installed_min: self.installed_min.unwrap_or(default.installed_min),
        }
    }
}

/// Of one run.
const ONE: matrix::Length = matrix::Length { time_s: 60, calm_s: 60, rate: 200, installed_min: 3 };
/// Of a run with a planted bug.
const PLANTED: matrix::Length =
    matrix::Length { time_s: 20, calm_s: 5, rate: 200, installed_min: 1 };
/// What a full matrix that was not shortened has to show.
const WANTED: Sum =
    Sum { acknowledged: 200_000, faults: 100, power_cuts: 30, transactions: 20_000 };

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
        Command::Run { workload, nemesis, nodes, plant, length, place } => {
            let how_long = length.or(ONE);
            let options = Options {
                workload,
                nemeses: nemesis,
                nodes,
                rate: how_long.rate,
                time_s: how_long.time_s,
                calm_s: how_long.calm_s,
                seed: seed(&length),
                installed_min: how_long.installed_min,
                mhub: find_mhub(place.mhub.as_deref())?,
                runs: place.runs,
                settings: plant.map(|bug| (plant::VARIABLE, bug)).into_iter().collect(),
            };
            let (verdict, dir) = run::run(options).await?;
            tell(&verdict);
            say(format!("report: {}", dir.join("report.html").display()));
            Ok(exit(verdict.pass))
        }
        Command::Matrix { quick, full: _, length, place } => {
            run_matrix(if quick { Extent::Quick } else { Extent::Full }, &length, &place).await
        }
        Command::Plant { bug, runs_each, length, place } => {
            plant::check_hub(&find_mhub(place.mhub.as_deref())?).await?;
            let mut all = true;
            for plan in &bug.0 {
                all &= run_planted(plan, runs_each, &length, &place).await?;
            }
            Ok(exit(all))
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
    say("bugs that can be planted");
    for plan in plant::plans() {
        let met_by = format!("{} {}", plan.pair.workload.name(), plan.pair.faults());
        say(format!(
            "  {:<17} {} ({met_by}; found by {})",
            plan.name,
            plan.what,
            plan.checks.join(", ")
        ));
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

/// One run as a process: it gets a sandbox of its own. Whether it passed.
async fn run_apart(
    pair: &Pair,
    (seed, bug): (u64, Option<&str>),
    length: matrix::Length,
    (mhub, runs): (Option<&Path>, &Path),
) -> anyhow::Result<bool> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["run", "--workload", pair.workload.name()]);
    if !pair.nemeses.is_empty() {
        command.args(["--nemesis", &pair.faults()]);
    }
    command.args(["--nodes", &pair.nodes.to_string(), "--seed", &seed.to_string()]);
    command.args(["--time", &length.time_s.to_string(), "--calm", &length.calm_s.to_string()]);
    command.args(["--rate", &length.rate.to_string()]);
    command.args(["--installed-min", &length.installed_min.to_string()]);
    command.arg("--runs").arg(runs).kill_on_drop(true);
    if let Some(mhub) = mhub {
        command.arg("--mhub").arg(mhub);
    }
    if let Some(bug) = bug {
        command.args(["--plant", bug]);
    }
    Ok(command.status().await?.success())
}

async fn run_matrix(extent: Extent, length: &Length, place: &Place) -> anyhow::Result<ExitCode> {
    let first_seed = seed(length);
    let how_long = length.or(extent.length());
    let runs = place.runs.join(format!("matrix-{first_seed}"));
    let mut failed = Vec::new();
    let reach = sandbox::reach().0;
    for (seed, mut pair) in (first_seed..).zip(pairs(extent)) {
        let name = format!("{} {}", pair.workload.name(), pair.faults());
        let out_of_reach =
            |n: &Nemesis| reach != Reach::Everything && n.needs() == Reach::Everything;
        if pair.nemeses.iter().any(out_of_reach) {
            let left: Vec<&str> =
                pair.nemeses.iter().filter(|n| out_of_reach(n)).map(|n| n.name()).collect();
            say(format!("== {name}: {} left out, they need root and its programs", left.join(",")));
            pair.nemeses.retain(|n| !out_of_reach(n));
            if extent == Extent::Full {
                failed.push(name.clone());
            }
        }
        say(format!("== {name}"));
        let where_ = (place.mhub.as_deref(), runs.as_path());
        if !run_apart(&pair, (seed, None), how_long, where_).await? {
            failed.push(name);
        }
    }
    let sum = Sum::of(&runs);
    let Sum { acknowledged, faults, power_cuts, transactions } = sum;
    say(format!(
        "== {acknowledged} acknowledged events, {transactions} transactions, {faults} faults, {power_cuts} of them power cuts; first seed {first_seed}"
    ));
    if extent == Extent::Full && length.time.is_none() && length.rate.is_none() {
        failed.extend(sum.lacks(&WANTED));
    }
    say(format!("== {} of the matrix failed", failed.len()));
    failed.iter().for_each(|name| say(format!("   {name}")));
    Ok(exit(failed.is_empty()))
}

/// Whether enough runs found the bug.
async fn run_planted(
    plan: &Plan,
    runs_each: u32,
    length: &Length,
    place: &Place,
) -> anyhow::Result<bool> {
    let first_seed = seed(length);
    let how_long = length.or(PLANTED);
    let (mut found, mut table) = (0, Vec::new());
    for seed in first_seed..first_seed + u64::from(runs_each) {
        say(format!("== {}, seed {seed}", plan.name));
        // Each run in a directory of its own, to be found again.
        let runs = place.runs.join(format!("plant-{}-{seed}", plan.name));
        let where_ = (place.mhub.as_deref(), runs.as_path());
        run_apart(&plan.pair, (seed, Some(plan.name)), how_long, where_).await?;
        let told = matrix::directories(&runs).iter().rev().find_map(|dir| Told::of(dir));
        let told = told.unwrap_or_default();
        let complaining = told.complaining();
        let is_found = plan.checks.iter().any(|check| complaining.contains(check));
        found += u32::from(is_found);
        let word = if is_found { "found" } else { "NOT FOUND" };
        let by = if told.checks.is_empty() {
            "the run came to no end".to_owned()
        } else {
            complaining.join(", ")
        };
        table.push(format!("   {seed:>8} {word:<9} {by}"));
    }
    say(format!("== {}: found in {found} of {runs_each} runs", plan.name));
    table.iter().for_each(say);
    Ok(found * 10 >= runs_each * 9)
}

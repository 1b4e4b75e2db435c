//! Many seeds, each in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

pub(crate) const USAGE: &str = "\
usage: cargo test --features sim --test sim -- [--seeds N] [--from S] [--jobs J]
       cargo test --features sim --test sim -- --one SEED [--trace FILE]
300 seeds from 1 on unless told otherwise, as many at once as there are cores; one seed with its
whole trace in a file. With --features sim,planted also --plant BUG, one that has to be found.";

/// Of so many seeds some have to do what few of them may lack.
const SEEDS_MANY: u64 = 10;

const SEED: &str = "MHUB_SIM_SEED";

pub(crate) enum Wish {
    Many(Many),
    One(One),
    /// A test runner that only asks what there is.
    Nothing,
}

pub(crate) struct Many {
    seeds: u64,
    from: u64,
    jobs: usize,
    plant: Option<String>,
}

pub(crate) struct One {
    pub(crate) seed: u64,
    pub(crate) trace: Option<PathBuf>,
    /// A bug on purpose.
    pub(crate) plant: Option<String>,
}

pub(crate) fn parse(given: &[String]) -> Result<Wish, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut seeds, mut from, mut jobs) = (300, 1, cores);
    let (mut one, mut trace, mut plant) = (None, None, None);
    let mut words = given.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: &String| text.parse().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--seeds" => seeds = number(value()?)?,
            "--from" => from = number(value()?)?,
            "--jobs" => jobs = usize::try_from(number(value()?)?).unwrap_or(1).max(1),
            "--one" => one = Some(number(value()?)?),
            "--trace" => trace = Some(PathBuf::from(value()?)),
            "--plant" => plant = Some(value()?.clone()),
            "--list" => return Ok(Wish::Nothing),
            other => return Err(format!("unknown: {other}")),
        }
    }
    Ok(match one {
        Some(seed) => Wish::One(One { seed, trace, plant }),
        None => Wish::Many(Many { seeds, from, jobs, plant }),
    })
}

/// Whether this process draws its randomness by a seed already.
pub(crate) fn is_seeded(seed: u64) -> bool {
    std::env::var(SEED).is_ok_and(|given| given == seed.to_string())
}

/// Builds the library that takes the place of the system's randomness.
fn build_library() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/seeded.c");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libseeded.so");
    let staged = library.with_extension(format!("{}", std::process::id()));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&staged, &source])
        .status()
        .expect("run cc, which the linker needs as well");
    assert!(built.success(), "seeded.c does not compile");
    std::fs::rename(&staged, &library).expect("put the library in its place");
    library
}

/// The process of one seed.
pub(crate) fn process(wish: &One) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary's path"));
    command.args(["--one", &wish.seed.to_string()]);
    if let Some(trace) = &wish.trace {
        command.arg("--trace").arg(trace);
    }
    if let Some(plant) = &wish.plant {
        command.args(["--plant", plant]);
    }
    command.env(SEED, wish.seed.to_string()).env("LD_PRELOAD", build_library());
    command
}

pub(crate) fn run(wish: &Many) -> ExitCode {
    let began = Instant::now();
    let sound = crate::disk::check().and_then(|()| replays(wish.from));
    if let Err(what) = sound {
        println!("{what}");
        return ExitCode::FAILURE;
    }
    let mut queue = wish.from..wish.from + wish.seeds;
    let mut running: Vec<(u64, Child)> = Vec::new();
    let mut failed = Vec::new();
    let (mut transactions, mut refusals) = (0, 0);
    loop {
        while running.len() < wish.jobs
            && let Some(seed) = queue.next()
        {
            let one = One { seed, trace: None, plant: wish.plant.clone() };
            let child = process(&one).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            running.push((seed, child.expect("start a process")));
        }
        if running.is_empty() {
            break;
        }
        // Seeds take about as long as each other: the oldest ends first, or soon.
        let (seed, child) = running.remove(0);
        let output = child.wait_with_output().expect("wait for a process");
        let said = String::from_utf8_lossy(&output.stdout);
        transactions += figure(&said, "transactions");
        refusals += figure(&said, "refusals");
        if !output.status.success() {
            let cried = String::from_utf8_lossy(&output.stderr);
            println!("seed {seed} fails:\n{said}{cried}");
            println!(
                "run it alone: cargo test --features sim --test sim -- --one {seed} --trace sim-{seed}.txt"
            );
            failed.push(seed);
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "simulation: {} seeds from {} in {took:.1} s, {transactions} transactions, {refusals} refusals, {} failed {failed:?}",
        wish.seeds,
        wish.from,
        failed.len()
    );
    if wish.seeds >= SEEDS_MANY && (transactions == 0 || refusals == 0) {
        println!("no transaction was done, or nothing refused by its schema: that proves nothing");
        return ExitCode::FAILURE;
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The number before a word in what a run says of itself; 0: it never came that far.
fn figure(said: &str, what: &str) -> u64 {
    let words: Vec<&str> = said.split_whitespace().collect();
    let told = words.windows(2).filter(|pair| pair[1].trim_end_matches(',') == what);
    told.filter_map(|pair| pair[0].parse::<u64>().ok()).sum()
}

/// Runs one seed twice and compares everything that happened.
fn replays(seed: u64) -> Result<(), String> {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let traces: Vec<PathBuf> =
        ["a", "b"].iter().map(|n| tmp.join(format!("replay-{}-{n}", std::process::id()))).collect();
    let mut texts = Vec::new();
    for trace in &traces {
        let one = One { seed, trace: Some(trace.clone()), plant: None };
        let output = process(&one).output().expect("run a process");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let cried = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("seed {seed} fails:\n{said}{cried}"));
        }
        texts.push(std::fs::read_to_string(trace).expect("read a trace"));
        std::fs::remove_file(trace).expect("remove a trace");
    }
    if texts[0] == texts[1] {
        println!("simulation: seed {seed} twice, the same {} lines", texts[0].lines().count());
        return Ok(());
    }
    let differ = texts[0].lines().zip(texts[1].lines()).enumerate().find(|(_, (a, b))| a != b);
    Err(format!("seed {seed} is not the same twice; first difference: {differ:?}"))
}

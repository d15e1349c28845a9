//! `sim`: the gateway's planner and session machine in virtual time.
//!
//! `--all` judges every case over twenty seeds and compares with others; `--case NAME` one of them; a scenario file is
//! played as `fleet replay` plays it with real clients, and `--against` compares the two. See docs/simulator.md.

mod cases;
mod compare;
mod engine;
mod play;
mod pool;
mod rivals;
mod runner;
mod spec;
mod table;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::json;

/// The gateway's planner in virtual time: judges cases, plays scenarios.
#[derive(Clone, Debug, Parser)]
#[command(version)]
struct Args {
    /// Scenario files as `fleet replay` takes them
    scenarios: Vec<PathBuf>,
    /// Judge every case and compare with others
    #[arg(long)]
    all: bool,
    /// Judge this case; several times for several
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Compare with others for the scale-outs
    #[arg(long)]
    rivals: bool,
    /// Tell the names of the cases
    #[arg(long)]
    list: bool,
    /// This seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// What the planners told, in order of time, with the first seed
    #[arg(long)]
    reports: bool,
    /// Seeds of each case: 1 to so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Runs at a time [default: the CPUs]
    #[arg(long)]
    threads: Option<usize>,
    /// With a scenario: the JSON report of a real run; time to level and moves must agree within 15 %
    #[arg(long, value_name = "FILE", requires = "scenarios")]
    against: Option<PathBuf>,
    /// Where a JSON report goes
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where a page goes
    #[arg(long)]
    html: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything holds.
fn run(args: &Args) -> anyhow::Result<bool> {
    let asked = args.all || args.list || args.rivals || !args.cases.is_empty() || !args.scenarios.is_empty();
    if !asked {
        bail!("nothing to do; expected --all, --case NAME, --rivals, --list or a scenario file (see --help)");
    }
    if args.list {
        for case in cases::all() {
            say(&format!("{:26} {}\n", case.name, case.what))?;
        }
        return Ok(true);
    }
    let mut passed = true;
    if args.all || args.rivals || !args.cases.is_empty() {
        passed &= judge(args)?;
    }
    if !args.scenarios.is_empty() {
        passed &= scenarios(args)?;
    }
    Ok(passed)
}

fn judge(args: &Args) -> anyhow::Result<bool> {
    let seeds: Vec<u64> = args.seed.map_or_else(|| (1..=args.seeds).collect(), |seed| vec![seed]);
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut verdicts = Vec::new();
    for case in chosen(args)? {
        let verdict = runner::judge(&case, &seeds, threads);
        if args.reports {
            say(&runner::reports(&case, seeds[0]))?;
        }
        say(&table::text(&verdict))?;
        say(&format!("        {} events in {:.1} s\n\n", verdict.events, verdict.took.as_secs_f64()))?;
        verdicts.push(verdict);
    }
    let mut passed = verdicts.iter().all(table::passed);
    if args.all || args.cases.iter().any(|name| name == MILLION) {
        passed &= think(seeds[0])?;
    }
    let mut compared = String::new();
    let mut rivals = Vec::new();
    if args.all || args.rivals {
        for (title, clients, endpoints) in compare::SCALE_OUTS {
            let rows = compare::compare(clients, endpoints, &seeds, threads);
            let text = compare::text(title, &rows);
            say(&format!("{text}\n"))?;
            compared.push_str(&text);
            rivals.push(json!({
                "what": title, "rows": rows.iter().map(compare::Row::json).collect::<Vec<_>>()
            }));
        }
    }
    if let Some(path) = args.json.as_ref().filter(|_| args.scenarios.is_empty()) {
        let mut report = table::json(&verdicts);
        report["compared"] = json!(rivals);
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = args.html.as_ref().filter(|_| args.scenarios.is_empty()) {
        write(path, &table::html(&verdicts, &compared))?;
    }
    say(&table::sum(&verdicts))?;
    Ok(passed)
}

/// The case in which a planner's own time is measured.
const MILLION: &str = "scale-out-million";
/// A planner of the largest case decides within this time.
const THINKS_WITHIN: Duration = Duration::from_millis(5);

/// How long a planner thinks amid the moves of the largest case.
fn think(seed: u64) -> anyhow::Result<bool> {
    let case = cases::all().into_iter().find(|case| case.name == MILLION).context("the case exists")?;
    let at = cases::BEFORE + Duration::from_secs(60);
    let [plan, explain] = runner::think_time(&(case.spec)(1), seed, at).context("there is a replica")?;
    let passed = plan.max(explain) <= THINKS_WITHIN;
    say(&format!(
        "  {}  plan of one replica of {MILLION}: poll_action {plan:.1?}, explain {explain:.1?}, at most {THINKS_WITHIN:?}\n\n",
        if passed { "ok  " } else { "MISS" },
    ))?;
    Ok(passed)
}

fn chosen(args: &Args) -> anyhow::Result<Vec<cases::Case>> {
    let mut all = cases::all();
    if args.all {
        return Ok(all);
    }
    if let Some(unknown) = args.cases.iter().find(|name| !all.iter().any(|case| case.name == **name)) {
        bail!("there is no case {unknown:?}; --list tells the names");
    }
    all.retain(|case| args.cases.iter().any(|name| name == case.name));
    Ok(all)
}

fn scenarios(args: &Args) -> anyhow::Result<bool> {
    let mut passed = true;
    for path in &args.scenarios {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let played = play::play(&text, args.seed).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        let out = PathBuf::from("target/sim");
        let name = &played.report.name;
        let json = args.json.clone().unwrap_or_else(|| out.join(format!("{name}.json")));
        let html = args.html.clone().unwrap_or_else(|| out.join(format!("{name}.html")));
        write(&json, &played.report.json())?;
        write(&html, &played.report.html())?;
        if args.reports {
            say(&played.told)?;
        }
        say(&played.report.text())?;
        for note in &played.notes {
            say(&format!("  note    {note}\n"))?;
        }
        passed &= played.report.passed();
        if let Some(real) = &args.against {
            let real = fs::read_to_string(real).with_context(|| format!("cannot read {}", real.display()))?;
            let (text, agrees) = play::against(&played.report, &real).map_err(|e| anyhow::anyhow!(e))?;
            say(&text)?;
            passed &= agrees;
        }
        say(&format!("\n  {}\n  {}\n", json.display(), html.display()))?;
    }
    Ok(passed)
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

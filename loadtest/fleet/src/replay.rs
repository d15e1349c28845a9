//! `fleet replay`: scenarios in; two runs, reports and a verdict of each out.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use scenario::amqp::AmqpScenario;
use scenario::{Bounds, Report, Run, Scenario, Summary};

use crate::amqp;
use crate::cluster::{Place, Replicas};
use crate::gateway::{move_close, without_rebalance};
use crate::recording::summarise;
use crate::run::{self, Endpoints, Setup, Target};
use crate::usage;

/// Descriptors that a process needs beyond its sockets.
const DESCRIPTORS_OWN: u64 = 200;

/// What one machine can hold. Clients: two descriptors each would not fit a gateway's 20,000. Endpoints: each has a
/// loopback address of its own, 127.0.0.11 and up.
const BOUNDS: Bounds = Bounds { clients_max: 9_800, endpoints_max: 200 };

/// What `fleet replay` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Scenario files, see loadtest/README.md; played one after the other
    #[arg(required = true, value_name = "SCENARIO")]
    pub scenarios: Vec<PathBuf>,
    /// Drive a gateway that runs elsewhere, ws://host:port/path; steps need --endpoints-file, or a cluster
    #[arg(long)]
    pub target: Option<String>,
    /// With --target: the endpoints file that the gateway there watches; demo endpoints are started and listed in it
    #[arg(long, requires = "target")]
    pub endpoints_file: Option<PathBuf>,
    /// With --target: the admin port of a gateway, http://host:port, once for each replica; they tell the sessions of all
    /// endpoints
    #[arg(long, value_name = "URL", requires = "target", conflicts_with = "endpoints_file")]
    pub status: Vec<String>,
    /// With --target: the headless Service of the gateways, namespace/service, in the cluster of KUBECONFIG or of the own
    /// Pod; instead of --status
    #[arg(long, value_name = "SERVICE", requires = "target", conflicts_with_all = ["endpoints_file", "status"])]
    pub replicas_of: Option<String>,
    /// With --status or --replicas-of: which pool of the gateways [default: the only one]
    #[arg(long)]
    pub pool: Option<String>,
    /// Where the JSON report goes [default: target/replay/NAME.json]
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Where the page goes [default: target/replay/NAME.html]
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Leave out the run to compare with
    #[arg(long)]
    pub no_baseline: bool,
    /// AMQP only: leave out the run with the gateway; nothing is judged then
    #[arg(long)]
    pub no_gateway: bool,
    /// Another seed than the scenario's
    #[arg(long)]
    pub seed: Option<u64>,
    /// No progress, only the result
    #[arg(long)]
    pub quiet: bool,
}

/// Replays one scenario after the other; the exit code is 0 when every expectation of all of them is met, 1 when one is
/// missed.
///
/// # Errors
/// When a scenario is invalid, which is found before the first one runs, or a run cannot be carried through.
pub async fn replay(args: Args) -> anyhow::Result<ExitCode> {
    if args.scenarios.len() > 1 && (args.json.is_some() || args.html.is_some()) {
        bail!("--json and --html name one file, but there are {} scenarios", args.scenarios.len());
    }
    let scenarios: Vec<Any> =
        args.scenarios.iter().map(|path| read(path, args.seed)).collect::<Result<_, _>>()?;
    for scenario in &scenarios {
        if let Any::Websocket(scenario) = scenario {
            check_target(&args, scenario)?;
        }
    }
    let mut passed = true;
    for scenario in &scenarios {
        passed &= play(&args, scenario).await?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A scenario of either kind.
enum Any {
    Websocket(Box<Scenario>),
    Amqp(Box<AmqpScenario>),
}

fn read(path: &Path, seed: Option<u64>) -> anyhow::Result<Any> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    if AmqpScenario::is_meant(&text) {
        let mut scenario = AmqpScenario::parse(&text).map_err(|e| anyhow::anyhow!("{shown}: {e}"))?;
        scenario.seed = seed.unwrap_or(scenario.seed);
        return Ok(Any::Amqp(Box::new(scenario)));
    }
    let mut scenario = Scenario::parse(&text, BOUNDS).map_err(|e| anyhow::anyhow!("{shown}: {e}"))?;
    scenario.seed = seed.unwrap_or(scenario.seed);
    check_descriptors(scenario.clients.count)?;
    Ok(Any::Websocket(Box::new(scenario)))
}

/// All runs of a scenario and its reports; whether every expectation is met.
async fn play(args: &Args, scenario: &Any) -> anyhow::Result<bool> {
    let out = PathBuf::from("target/replay");
    let report = match scenario {
        Any::Websocket(scenario) => play_websocket(args, scenario, &out).await?,
        Any::Amqp(scenario) => amqp::replay::play(args, scenario, &out).await?,
    };
    let json = args.json.clone().unwrap_or_else(|| out.join(format!("{}.json", report.name)));
    let html = args.html.clone().unwrap_or_else(|| out.join(format!("{}.html", report.name)));
    write(&json, &report.json())?;
    write(&html, &report.html())?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(report.text().as_bytes())?;
    writeln!(stdout, "\n  {}\n  {}", json.display(), html.display())?;
    Ok(report.passed())
}

async fn play_websocket(args: &Args, scenario: &Scenario, out: &Path) -> anyhow::Result<Report> {
    if args.no_gateway {
        bail!("--no-gateway is for AMQP scenarios; a WebSocket scenario needs a gateway");
    }
    let setups = setups(args, scenario, out)?;
    let mut runs = Vec::new();
    for setup in &setups {
        runs.push(one(scenario, setup).await?);
    }
    Ok(Report {
        name: scenario.name.clone(),
        description: scenario.description.clone(),
        program: "fleet, with real clients".into(),
        clients: scenario.clients.count,
        seed: scenario.seed,
        machine: usage::machine(),
        verdicts: runs.first().map_or_else(Vec::new, |run| scenario.expect.judge(&run.summary)),
        runs,
    })
}

async fn one(scenario: &Scenario, setup: &Setup) -> anyhow::Result<Run> {
    let recording =
        run::record(scenario, setup).await.with_context(|| format!("the run `{}` failed", setup.label))?;
    let close = move_close(&scenario.gateway);
    let summary: Summary = summarise(&recording, &close);
    Ok(Run { summary, series: recording.timeline.series })
}

fn setups(args: &Args, scenario: &Scenario, out: &Path) -> anyhow::Result<Vec<Setup>> {
    let setup = |label: &str, length, target| Setup {
        label: label.to_owned(),
        length,
        target,
        folder: run::folder(out, &scenario.name, label),
        quiet: args.quiet,
    };
    if let Some(url) = &args.target {
        let (address, path) = parse_target(url)?;
        let target = Target::Elsewhere { address, path, endpoints: endpoints_elsewhere(args)? };
        return Ok(vec![setup("target", scenario.run_for, target)]);
    }
    let own = Target::Own(scenario.gateway.clone());
    let mut setups = vec![setup("evenkeel", scenario.run_for, own)];
    let baseline = &scenario.baseline;
    if baseline.enabled && !args.no_baseline {
        let length = baseline.run_for.unwrap_or(scenario.run_for);
        let target = Target::Own(without_rebalance(&scenario.gateway, &baseline.policy));
        setups.push(setup(&baseline.policy, length, target));
    }
    Ok(setups)
}

fn endpoints_elsewhere(args: &Args) -> anyhow::Result<Endpoints> {
    if let Some(file) = &args.endpoints_file {
        return Ok(Endpoints::Ours(file.clone()));
    }
    let replicas = Replicas::parse(&args.status, args.replicas_of.as_deref())?;
    let told = |replicas| Endpoints::Told(Place { replicas, pool: args.pool.clone() });
    Ok(replicas.map_or(Endpoints::Seen, told))
}

/// Whether the steps of a scenario can be taken where the command line says; what cannot is told before the start.
fn check_target(args: &Args, scenario: &Scenario) -> anyhow::Result<()> {
    let name = &scenario.name;
    if let Some(step) = scenario.first_of_cluster() {
        if args.target.is_none() {
            bail!(
                "{name}: {step} is a step of a cluster; name a gateway there with --target ws://NODE:PORT, and its \
                 replicas with --replicas-of NAMESPACE/SERVICE or --status URL"
            );
        }
        if args.status.is_empty() && args.replicas_of.is_none() {
            bail!(
                "{name}: {step} changes endpoints that only the gateways see; say where to ask them, with --replicas-of \
                 NAMESPACE/SERVICE or --status URL"
            );
        }
    }
    if let Some(step) = scenario.first_of_own()
        && args.target.is_some()
        && args.endpoints_file.is_none()
    {
        bail!(
            "{name}: {step} is about endpoints of this machine, and the gateway of --target does not know them; add \
             --endpoints-file with the list that it watches, or write the step for a cluster, \
             scale: {{deployment: NAME, replicas: N}}"
        );
    }
    Ok(())
}

/// Host with port, and path, of a `ws://` address.
fn parse_target(url: &str) -> anyhow::Result<(String, String)> {
    let Some(rest) = url.strip_prefix("ws://") else {
        bail!("--target is {url:?}, expected ws://host:port/path (these clients speak no TLS)");
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() {
        bail!("--target is {url:?}, which names no host; expected ws://host:port/path");
    }
    let ported = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if ported { host.to_owned() } else { format!("{host}:80") };
    Ok((address, format!("/{path}")))
}

/// One socket a client here, two in the gateway: what does not fit is told before anything is started.
fn check_descriptors(clients: u32) -> anyhow::Result<()> {
    let (limit, needed) = (usage::raise_descriptors(), 2 * u64::from(clients) + DESCRIPTORS_OWN);
    if needed > limit {
        bail!(
            "{clients} clients need {needed} descriptors in the gateway (two each), and this system allows {limit} a \
             process; use fewer clients or raise the hard limit (ulimit -Hn)"
        );
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_repository_is_valid() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios");
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let scenario = read(&path, None).unwrap_or_else(|e| panic!("{e:#}"));
            let name = match scenario {
                Any::Websocket(scenario) => scenario.name,
                Any::Amqp(scenario) => scenario.name,
            };
            assert_eq!(path.file_stem().unwrap().to_str(), Some(name.as_str()));
            names.push(name);
        }
        assert!(names.len() >= 6, "{names:?}");
    }

    #[test]
    fn the_job_of_the_demo_overlay_plays_the_scenario_of_the_load_tests() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let copy =
            fs::read_to_string(format!("{root}/deploy/overlays/websocket-demo/scenario.yaml")).unwrap();
        let own = fs::read_to_string(format!("{root}/loadtest/scenarios/cluster-scale-out.yaml")).unwrap();
        assert_eq!(copy, own);
    }

    #[test]
    fn a_target_is_a_plain_websocket_address() {
        let target = |url| parse_target(url).unwrap();
        assert_eq!(target("ws://gate:8080/ws?x=1"), ("gate:8080".into(), "/ws?x=1".into()));
        assert_eq!(target("ws://gate"), ("gate:80".into(), "/".into()));
        assert_eq!(target("ws://[::1]:8080"), ("[::1]:8080".into(), "/".into()));
        assert!(parse_target("wss://gate/").unwrap_err().to_string().contains("no TLS"));
        assert!(parse_target("ws:///x").is_err());
    }

    #[test]
    fn clients_that_do_not_fit_are_told_before_the_start() {
        assert!(check_descriptors(10).is_ok());
        let limit = usage::raise_descriptors().min(1 << 30);
        let error = check_descriptors(limit as u32).unwrap_err().to_string();
        assert!(error.contains("raise the hard limit"), "{error}");
    }
}

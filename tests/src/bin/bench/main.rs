//! `make bench`: the forwarder beside DPDK's testpmd, on the same interfaces, with the same generator, in one run.
//!
//! ```text
//!   CPU 1                         CPU 0                            (whoever sends)
//!   generator ── left0 ═══ rw-left [ forwarder ] rw-right ═══ right0 ── counted, dropped by XDP
//! ```
//!
//! Arrangement `a` is a veth as it comes: the work of receiving at `rw-left` is done on the generator's CPU. In `b`
//! both ports have threaded NAPI, and those threads share CPU 0 with the forwarder, as on a small appliance.

mod generator;
mod rival;

use dataplane::lab::{Lab, LabPlan, Side};
use drivers::xdp::{Sink, SinkProgram};
use generator::Generator;
use lab::Outcome;
use lab::measured::{cpu_seconds, cpu_times};
use rival::{Arrangement, Forwarder};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a forwarder may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    arrangement: Arrangement,
    bytes: u16,
    forwarder: String,
    /// Millions of frames a second that arrived at the far end.
    mpps: f64,
    /// Millions a second that the generator sent.
    offered_mpps: f64,
    /// Share of the frames sent that did not arrive, in percent.
    lost_percent: f64,
    /// CPU time of the forwarder's process, in percent of one CPU.
    process_percent: f64,
    /// CPU time of the generator for each frame that it sent, in nanoseconds: all of CPU 1's part in `a`.
    sender_nanos: f64,
    /// Share of CPU 0 that was busy: the forwarder's.
    cpu0_percent: f64,
    /// Share of CPU 1 that was busy: the generator's.
    cpu1_percent: f64,
}

struct Settings {
    rounds: usize,
    seconds: f64,
    json: bool,
    only: Option<String>,
    arrangement: Option<String>,
    bytes: Option<u16>,
    tried: Vec<String>,
}

fn main() -> Outcome<()> {
    let settings = settings()?;
    let mut samples = Vec::new();
    for arrangement in [Arrangement::A, Arrangement::B] {
        if settings.arrangement.as_ref().is_some_and(|only| only != arrangement.name()) {
            continue;
        }
        for bytes in [64u16, 1500] {
            if settings.bytes.is_some_and(|only| only != bytes) {
                continue;
            }
            for round in 0..settings.rounds {
                let tried = settings.tried.iter().map(|text| Forwarder::tried(text));
                for forwarder in Forwarder::all(arrangement).into_iter().chain(tried) {
                    let wanted = |only: &String| only.split('|').any(|word| forwarder.name().contains(word));
                    if !settings.only.as_ref().is_none_or(wanted) {
                        continue;
                    }
                    let sample = measure(arrangement, bytes, &forwarder, settings.seconds)?;
                    eprintln!(
                        "{} {bytes:>4} B  round {round}  {:<28} {:.3} of {:.3} Mpps, process {:.0} %, CPU 0 {:.0} %, CPU 1 {:.0} %, {:.0} ns",
                        arrangement.name(),
                        sample.forwarder,
                        sample.mpps,
                        sample.offered_mpps,
                        sample.process_percent,
                        sample.cpu0_percent,
                        sample.cpu1_percent,
                        sample.sender_nanos
                    );
                    samples.push(sample);
                }
            }
        }
    }
    // What the forwarders said is of interest only when one of them failed.
    let _ = std::fs::remove_file(rival::log());
    if settings.json {
        println!("{}", serde_json::to_string_pretty(&samples)?);
    } else {
        print!("{}", table(&samples));
    }
    Ok(())
}

fn settings() -> Outcome<Settings> {
    let mut settings = Settings {
        rounds: 5,
        seconds: 3.0,
        json: false,
        only: None,
        arrangement: None,
        bytes: None,
        tried: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => settings.rounds = value()?.parse()?,
            "--seconds" => settings.seconds = value()?.parse()?,
            "--arrangement" => settings.arrangement = Some(value()?),
            "--bytes" => settings.bytes = Some(value()?.parse()?),
            "--only" => settings.only = Some(value()?),
            "--try" => settings.tried.push(value()?),
            "--json" => settings.json = true,
            _ => {
                return Err(format!(
                    "unknown argument {arg}; there are --rounds N, --seconds S, --arrangement a|b, --bytes N, --only NAME, --try 'PREFIX; PORT OPTIONS; ARGUMENTS', --json"
                )
                .into());
            }
        }
    }
    Ok(settings)
}

/// A fresh laboratory for each measurement, so that no forwarder inherits another's leavings.
fn measure(arrangement: Arrangement, bytes: u16, forwarder: &Forwarder, seconds: f64) -> Outcome<Sample> {
    let lab = Lab::up(&LabPlan { ipv6: false, ..LabPlan::private("rwb") })?;
    let right = lab.host(Side::Right).run(|| {
        let link = drivers::link::Link::by_name("right0").map_err(|error| error.to_string())?;
        SinkProgram::attach(link.index, "right0", Sink::Drop, None).map_err(|error| error.to_string())
    })??;
    let running = forwarder.start(&lab)?;
    if arrangement == Arrangement::B {
        rival::share_cpu_0(&lab)?;
    }
    let generator = Generator::start(&lab, bytes, 1)?;
    // Warm up: rings fill, caches and the scheduler settle.
    std::thread::sleep(Duration::from_millis(700));
    let before =
        (generator.sent(), right.traffic()?, running.cpu()?, cpu_times()?, cpu_seconds(std::process::id())?);
    let clock = std::time::Instant::now();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let after =
        (generator.sent(), right.traffic()?, running.cpu()?, cpu_times()?, cpu_seconds(std::process::id())?);
    let time = clock.elapsed().as_secs_f64();
    generator.stop();
    running.stop(PATIENCE)?;
    #[expect(clippy::cast_precision_loss, reason = "figures of three digits")]
    let rate = |after: u64, before: u64| (after - before) as f64 / time / 1e6;
    let (mpps, offered_mpps) = (rate(after.1.packets, before.1.packets), rate(after.0, before.0));
    let busy = |cpu: usize| {
        (after.3[cpu].busy - before.3[cpu].busy) / (after.3[cpu].all - before.3[cpu].all) * 100.0
    };
    Ok(Sample {
        arrangement,
        bytes,
        forwarder: forwarder.name().to_owned(),
        mpps,
        offered_mpps,
        lost_percent: (100.0 * (1.0 - mpps / offered_mpps)).max(0.0),
        process_percent: (after.2 - before.2) / time * 100.0,
        sender_nanos: (after.4 - before.4) / time / offered_mpps * 1e3,
        cpu0_percent: busy(0),
        cpu1_percent: busy(1),
    })
}

/// Medians, with the least and the greatest, and each forwarder's ratio to testpmd.
fn table(samples: &[Sample]) -> String {
    let mut groups: BTreeMap<(String, u16), Vec<&str>> = BTreeMap::new();
    for sample in samples {
        let names = groups.entry((sample.arrangement.name().to_owned(), sample.bytes)).or_default();
        if !names.contains(&sample.forwarder.as_str()) {
            names.push(&sample.forwarder);
        }
    }
    let mut text = String::from(
        "\n| arrangement | bytes | forwarder | Mpps: median (least .. greatest) | x testpmd | sent Mpps | lost % | process CPU % | CPU 0 % | CPU 1 % | sender ns/frame |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for ((arrangement, bytes), names) in &groups {
        let of = |name: &str, figure: fn(&Sample) -> f64| {
            let chosen = samples
                .iter()
                .filter(|s| s.arrangement.name() == arrangement && s.bytes == *bytes && s.forwarder == name);
            let mut figures: Vec<f64> = chosen.map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        // Of an even number: half way between the two in the middle.
        let median = |figures: &[f64]| match figures.len() {
            0 => f64::NAN,
            count => f64::midpoint(figures[(count - 1) / 2], figures[count / 2]),
        };
        let rival = median(&of(rival::TESTPMD, |s| s.mpps));
        for name in names {
            let mpps = of(name, |s| s.mpps);
            text += &format!(
                "| {arrangement} | {bytes} | {name} | {:.3} ({:.3} .. {:.3}) | {:.2} | {:.3} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} |\n",
                median(&mpps),
                mpps.first().copied().unwrap_or(f64::NAN),
                mpps.last().copied().unwrap_or(f64::NAN),
                median(&mpps) / rival,
                median(&of(name, |s| s.offered_mpps)),
                median(&of(name, |s| s.lost_percent)),
                median(&of(name, |s| s.process_percent)),
                median(&of(name, |s| s.cpu0_percent)),
                median(&of(name, |s| s.cpu1_percent)),
                median(&of(name, |s| s.sender_nanos)),
            );
        }
    }
    text
}

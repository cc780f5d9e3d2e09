//! The two clients as processes on CPU 1.

use crate::case::{Case, Client};
use dataplane::lab::{Lab, Side};
use lab::Outcome;
use std::process::Command;

/// What a client counted.
pub(crate) struct Answer {
    /// Requests a second.
    pub(crate) requests: f64,
    /// Responses that were not 2xx or 3xx, connections that broke, timeouts.
    pub(crate) errors: u64,
}

/// Asks for so many seconds.
pub(crate) fn ask(lab: &Lab, case: &Case, server: &str, seconds: u32) -> Outcome<Answer> {
    let mut command = lab.host(Side::Left).command("taskset");
    command.args(["-c", "1"]);
    let url = format!("http://{server}/{}", case.file);
    match case.client {
        Client::Wrk => wrk(command, case, &url, seconds),
        Client::Load => load(command, case, &url, seconds),
    }
}

fn wrk(mut command: Command, case: &Case, url: &str, seconds: u32) -> Outcome<Answer> {
    command.args(["wrk", "-t1", "--timeout", "5s"]);
    command.arg(format!("-c{}", case.connections)).arg(format!("-d{seconds}s"));
    let output = command.arg(url).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start));
    let requests = line("Requests/sec:").ok_or_else(|| format!("no rate from wrk: {text}"))?;
    let numbers = |line: &str| -> u64 {
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok()).sum()
    };
    let errors =
        line("Socket errors:").map_or(0, numbers) + line("Non-2xx or 3xx responses:").map_or(0, numbers);
    Ok(Answer { requests: requests.trim().parse()?, errors })
}

/// An address at the client's network that no kernel has.
const OURS: &str = "10.77.0.50/24";

fn load(mut command: Command, case: &Case, url: &str, seconds: u32) -> Outcome<Answer> {
    let port = format!("af-xdp:{}", Side::Left.interface());
    command.arg(std::env::current_exe()?.with_file_name("ringway"));
    command.args(["load", url, "--port", &port, "--address", OURS, "--format", "json"]);
    command.args(["--connections", &case.connections.to_string(), "--duration", &seconds.to_string()]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let end: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let requests =
        end["requests_per_second"].as_f64().ok_or_else(|| format!("no rate from ringway load: {text}"))?;
    let errors = end["errors"].as_object().map(|errors| errors.values().filter_map(|it| it.as_u64()).sum());
    Ok(Answer { requests, errors: errors.ok_or("no errors from ringway load")? })
}

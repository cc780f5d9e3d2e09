//! `ringway lab`: the laboratory by hand.

use super::print::say;
use super::{Outcome, misunderstood};
use clap::{Args, Subcommand, ValueEnum};
use dataplane::lab::scratch::sweep_everywhere;
use dataplane::lab::{Lab, LabError, LabPlan, Namespace, Side, sweep};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

/// The two-host veth laboratory: up, down, exec.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Build it: two hosts, two cables, and the ports rw-left and rw-right here.
    Up {
        /// Receive and transmit queues at each end of each cable.
        #[arg(long, value_name = "N", default_value_t = 1)]
        queues: u32,
        /// MTU of each end of each cable, in bytes.
        #[arg(long, value_name = "BYTES", default_value_t = 1500)]
        mtu: u32,
        /// Print each command that builds it, to be typed again by hand.
        #[arg(long)]
        verbose: bool,
    },
    /// Remove it, also when half of it is gone.
    Down {
        /// Also remove what killed demos and tests left behind.
        #[arg(long)]
        all: bool,
    },
    /// Run a command inside one of the hosts; its exit code is handed on.
    Exec {
        host: HostName,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Say what of it stands. Exit code 0: all of it; 1: nothing, or a part.
    Status,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HostName {
    Left,
    Right,
}

pub(crate) fn run(args: &LabArgs) -> Outcome {
    match &args.command {
        LabCommand::Up { queues, mtu, verbose } => {
            up(&LabPlan { queues: *queues, mtu: *mtu, ..LabPlan::default() }, *verbose)
        }
        LabCommand::Down { all } => down(*all),
        LabCommand::Exec { host, command } => exec(*host, command),
        LabCommand::Status => status(),
    }
}

fn up(plan: &LabPlan, verbose: bool) -> Outcome {
    let lab = Lab::up_watched(plan, &mut |command| {
        if verbose {
            eprintln!("+ {command}");
        }
    })
    .map_err(|error| match error {
        LabError::Plan(_) => misunderstood(error),
        _ => error.into(),
    })?;
    // It stands, whether or not anybody reads how to use it.
    lab.keep();
    say(&format!(
        "{}\nTry next:\n  ringway forward --port af-xdp:rw-left --port af-xdp:rw-right\n  \
         ringway lab exec left -- ping {}        (in a second terminal)\n  ringway lab down",
        drawing(plan),
        Side::Right.ipv4()
    ));
    Ok(ExitCode::SUCCESS)
}

fn drawing(plan: &LabPlan) -> String {
    const CABLES: &str = "[ left0 ]========[ rw-left   (this shell)   rw-right ]========[ right0 ]";
    let LabPlan { name, queues, mtu, .. } = plan;
    let width = CABLES.len() / 2;
    let line =
        |of: &dyn Fn(Side) -> String| format!("  {:<width$}{:>width$}\n", of(Side::Left), of(Side::Right));
    let six = plan.ipv6 && *mtu >= 1280;
    format!(
        "{}  {CABLES}\n{}{}\n  Queues at each end: {queues}. MTU: {mtu}. Nothing joins the two ports until you forward.\n",
        line(&|side| format!("{name}-{}", side.name())),
        line(&|side| format!("{}/24", side.ipv4())),
        if six { line(&|side| format!("{}/64", side.ipv6())) } else { String::new() },
    )
}

fn down(all: bool) -> Outcome {
    let swept = if all { [sweep()?, sweep_everywhere()].concat() } else { Vec::new() };
    let removed = match Lab::take_down(&LabPlan::default()) {
        // With --all it is no failure that only others' remains were there, or nothing.
        Err(LabError::Absent { .. }) if all => Vec::new(),
        removed => removed?,
    };
    let removed = [swept, removed].concat();
    if removed.is_empty() {
        say("nothing to remove");
    } else {
        say(&format!("removed {}", removed.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(host: HostName, command: &[String]) -> Outcome {
    let plan = LabPlan::default();
    let side = match host {
        HostName::Left => Side::Left,
        HostName::Right => Side::Right,
    };
    let absent = || LabError::Absent { name: plan.name.clone() };
    let namespace = Namespace::named(&format!("{}-{}", plan.name, side.name())).map_err(|_| absent())?;
    let (program, arguments) = command.split_first().ok_or("no command was given")?;
    // Returns only when it fails: signals and the exit code are then the command's own.
    let error = namespace.command(program).args(arguments).exec();
    Err(format!("`ip netns exec` could not be started: {error} (install the package iproute2)").into())
}

fn status() -> Outcome {
    let plan = LabPlan::default();
    let found = Lab::find(&plan)?;
    let whole = 4;
    say(&match found.len() {
        0 => "down: nothing of the laboratory stands (`ringway lab up` builds it)".to_owned(),
        n if n < whole => {
            format!("broken: only {} stand (`ringway lab down` clears them away)", found.join(", "))
        }
        _ => format!("up: {}", found.join(", ")),
    });
    Ok(if found.len() == whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

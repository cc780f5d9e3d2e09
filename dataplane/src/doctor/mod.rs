//! What this machine, its interfaces and its network cards can do, and the cure for what they cannot.
//!
//! Facts are read first ([`machine`], [`interface`], [`card`]) and judged after ([`judge`]), so every judgement is tested on recorded
//! facts. Nothing here needs a privilege: what cannot be read is said to be so, with the reason.

pub mod card;
pub mod interface;
pub mod judge;
pub mod machine;
mod text;

use card::Card;
use drivers::link::{Link, LinkError};
use drivers::pci::{PciAddress, Root, Survey};
use interface::Interface;
use judge::Asked;
use machine::Machine;
use serde::Serialize;

/// How much a problem matters. Ordered: the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Works, and could work better.
    Note,
    /// Works in some arrangements and fails, or loses frames, in others.
    Warning,
    /// AF_XDP cannot work so.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// A stable name for programs: `interface_down`.
    pub code: &'static str,
    /// The line of the report that it belongs to: `queues`.
    pub about: &'static str,
    /// What is the matter and what follows from it, for people.
    pub message: String,
    /// What to type, when there is something to type.
    pub cure: Option<String>,
}

/// All findings.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Ringway's version.
    pub version: &'static str,
    /// The machine.
    pub machine: Machine,
    /// The interfaces, in the order asked for, or by index.
    pub interfaces: Vec<Interface>,
    /// Network cards on the PCI bus: all, those of the interfaces asked for, or those asked for by their addresses.
    pub cards: Vec<Card>,
    /// What belongs to none of them: interfaces and cards that do not exist.
    pub problems: Vec<Problem>,
    /// How many problems there are of each severity.
    pub count: Count,
}

/// How many problems there are of each severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Errors.
    pub errors: usize,
    /// Warnings.
    pub warnings: usize,
    /// Notes.
    pub notes: usize,
}

impl Report {
    /// Examines the machine, and the interfaces and PCI functions called `names`: all of them but the loopback when there are
    /// no names. Reads the network namespace of the calling thread.
    #[must_use]
    pub fn examine(names: &[String]) -> Self {
        let root = Root::machine();
        let mut machine = Machine::read(std::path::Path::new("/"), &root);
        machine.problems = judge::machine(&machine);
        let (addresses, names) = addresses_and_names(names);
        let everything = addresses.is_empty() && names.is_empty();
        let (links, here, mut problems) = links(&names, everything);
        let asked = if names.is_empty() { Asked::AmongAll } else { Asked::ByName };
        let routes = machine::default_routes(std::path::Path::new("/"));
        let interfaces = links
            .iter()
            .map(|link| {
                let mut interface = Interface::of(link, &here, machine.kernel.version, &routes);
                interface.problems = judge::interface(&interface, &machine, asked);
                interface
            })
            .collect();
        let mut surveys = Survey::network_cards(&root);
        if !everything {
            surveys.retain(|card| card.interfaces.iter().any(|name| names.contains(&name)));
        }
        for address in addresses {
            match Survey::of(&root, address) {
                Ok(survey) => surveys.push(survey),
                Err(error) => problems.push(missing(address, &error)),
            }
        }
        machine.problems.extend(card::of_machine(&surveys));
        let mut report = Self {
            version: env!("CARGO_PKG_VERSION"),
            machine,
            interfaces,
            cards: surveys.iter().map(Card::of).collect(),
            problems,
            count: Count::default(),
        };
        report.count = report.counted();
        report
    }

    /// Every problem: the machine's, each interface's, each card's, the rest.
    pub fn all_problems(&self) -> impl Iterator<Item = &Problem> {
        let of_interfaces = self.interfaces.iter().flat_map(|interface| &interface.problems);
        let of_cards = self.cards.iter().flat_map(|card| &card.problems);
        self.machine.problems.iter().chain(of_interfaces).chain(of_cards).chain(&self.problems)
    }

    /// Whether nothing is an error: the command's exit code.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.count.errors == 0
    }

    /// The report for people, at most about 100 columns wide but for cures, which are left whole to be copied.
    #[must_use]
    pub fn to_text(&self, colour: Colour) -> String {
        text::render(self, colour)
    }

    fn counted(&self) -> Count {
        let of = |severity| self.all_problems().filter(|problem| problem.severity == severity).count();
        Count { errors: of(Severity::Error), warnings: of(Severity::Warning), notes: of(Severity::Note) }
    }
}

/// Whether text may carry terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Never,
    /// ANSI colours.
    Ansi,
}

/// What has a colon is no name of an interface, but may be a PCI address.
fn addresses_and_names(names: &[String]) -> (Vec<PciAddress>, Vec<&String>) {
    let mut addresses = Vec::new();
    let mut others = Vec::new();
    for name in names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => others.push(name),
        }
    }
    (addresses, others)
}

/// The links to report, all that there are, and what is wrong with those asked for.
fn links(names: &[&String], everything: bool) -> (Vec<Link>, Vec<Link>, Vec<Problem>) {
    let (here, mut problems) = match Link::all() {
        Ok(links) => (links, Vec::new()),
        Err(error) => (Vec::new(), vec![unreadable(&error)]),
    };
    let mut links = Vec::new();
    if everything {
        links.extend(here.iter().filter(|link| !link.loopback).cloned());
    }
    for name in names {
        match Link::by_name(name) {
            Ok(link) => links.push(link),
            Err(error) => problems.push(unreadable(&error)),
        }
    }
    (links, here, problems)
}

fn missing(address: PciAddress, error: &std::io::Error) -> Problem {
    Problem {
        severity: Severity::Error,
        code: "card_missing",
        about: "card",
        message: format!("there is no PCI device {address}: {error}"),
        cure: Some("lspci -D".to_owned()),
    }
}

fn unreadable(error: &LinkError) -> Problem {
    let code = match error {
        LinkError::NoSuch { .. } => "interface_missing",
        LinkError::Refused { .. } => "interface_unreadable",
    };
    Problem {
        severity: Severity::Error,
        code,
        about: "interface",
        message: error.to_string(),
        cure: Some("ip -brief link".to_owned()),
    }
}

#[cfg(test)]
mod tests;

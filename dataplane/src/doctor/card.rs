//! Network cards on the PCI bus, for those who drive them without the kernel: facts, judgement, and the lines of the report.
//!
//! What is in the way is asked of the rules by which opening refuses ([`Survey`]); here it is only put into words and order.

use super::interface::{Answer, Verdict};
use super::{Problem, Severity};
use drivers::nic::NicPort;
use drivers::pci::{Approach, Doors, Module, Neighbour, Obstacle, Owner, Survey, Way};
use serde::Serialize;

/// A card, or any other function that was asked for by its address.
#[derive(Clone, Debug, Serialize)]
pub struct Card {
    /// Where it is: `0000:03:00.0`.
    pub address: String,
    /// What it is by its maker's list: `8086:10d3`.
    pub id: String,
    /// The kernel's driver that has it: its own, `vfio-pci`, `uio_pci_generic`, or nobody.
    pub driver: Option<String>,
    /// The driver of Ringway's for it, by the name of the card; `null` when there is none.
    pub known: Option<&'static str>,
    /// Its interfaces that are to be seen from here.
    pub interfaces: Vec<String>,
    /// Why somebody would lose something if it were taken; taking it needs `force=on` then.
    pub in_use: Option<String>,
    /// The number of its IOMMU group.
    pub iommu_group: Option<String>,
    /// Who else is in that group.
    pub shares_group_with: Vec<Shared>,
    /// Its virtual functions (SR-IOV) that are switched on.
    pub virtual_functions: u32,
    /// The card of which it is a virtual function itself.
    pub virtual_function_of: Option<String>,
    /// What has it beside the kernel's drivers.
    pub held: Held,
    /// Who has it open, in words.
    pub holder: Option<String>,
    /// Whether `vfio:` would take it now, `force=on` aside.
    pub vfio: Answer,
    /// Whether `uio:` would.
    pub uio: Answer,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

/// Another function of the same IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Where it is.
    pub address: String,
    /// The kernel's driver that has it.
    pub driver: Option<String>,
    /// Whether it keeps the group from being ours.
    pub in_the_way: bool,
}

/// What has a card beside the kernel's drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// Nothing.
    No,
    /// A ringway that runs.
    ByRingway,
    /// A ringway that died had it, and it has not been given back.
    LeftBehind,
    /// Another program, by `/dev/vfio/N` or `/dev/uioN`.
    ByOther,
}

/// What of the kernel's doors to PCI cards this machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pci {
    /// The IOMMUs in force.
    pub iommus: Vec<String>,
    /// The groups of functions that they tell apart.
    pub iommu_groups: usize,
    /// Modules, and what is known of them.
    pub modules: Vec<DoorModule>,
}

/// A module of the kernel's that opens a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DoorModule {
    /// Its name, as `modprobe` takes it.
    pub name: &'static str,
    /// `loaded`, `loadable`, `absent` or `unknown`.
    pub state: &'static str,
}

impl Pci {
    /// The report's view of what the machine has.
    #[must_use]
    pub fn of(doors: Doors) -> Self {
        let state = |module| match module {
            Module::Loaded => "loaded",
            Module::Loadable => "loadable",
            Module::Absent => "absent",
            Module::Unknown => "unknown",
        };
        let modules =
            doors.modules.into_iter().map(|(name, module)| DoorModule { name, state: state(module) });
        Self { iommus: doors.iommus, iommu_groups: doors.groups, modules: modules.collect() }
    }

    /// The line of the machine's part.
    pub(super) fn row(&self) -> String {
        let mut words = vec![match &self.iommus[..] {
            [] if self.iommu_groups == 0 => "no IOMMU in force".to_owned(),
            [] => format!("an IOMMU of {} groups", self.iommu_groups),
            names => format!("IOMMU {}, {} groups", names.join(", "), self.iommu_groups),
        }];
        words.extend(self.modules.iter().map(|module| format!("{} {}", module.name, module.state)));
        words.join(" · ")
    }
}

impl Card {
    /// The report's view of a function.
    #[must_use]
    pub fn of(survey: &Survey) -> Self {
        let known = NicPort::knows(&survey.identity);
        let held = match (&survey.owner, &survey.holder) {
            (Some(Owner::Ringway), _) => Held::ByRingway,
            (Some(Owner::Nobody { .. }), _) => Held::LeftBehind,
            (None, Some(_)) => Held::ByOther,
            (None, None) => Held::No,
        };
        let answer = |way| answer(survey, approach(survey, way), known);
        Self {
            address: survey.address.to_string(),
            id: survey.identity.to_string(),
            driver: survey.driver.clone(),
            known,
            interfaces: survey.interfaces.clone(),
            in_use: survey
                .approaches
                .iter()
                .find_map(|approach| Some(approach.in_use.as_ref()?.reason.clone())),
            iommu_group: survey.group.clone(),
            shares_group_with: survey.neighbours.iter().map(Shared::of).collect(),
            virtual_functions: survey.virtual_functions,
            virtual_function_of: survey.virtual_function_of.clone(),
            held,
            holder: survey.holder.clone(),
            vfio: answer(Way::Vfio),
            uio: answer(Way::Uio),
            problems: problems(survey, known.is_some(), held),
        }
    }

    /// By which driver a port on it would open now.
    pub(super) fn ready(&self) -> Option<String> {
        let ready = |answer: &Answer| answer.verdict == Verdict::Yes && self.in_use.is_none();
        let way = if ready(&self.vfio) { Way::Vfio } else { Way::Uio };
        let answer = if way == Way::Vfio { &self.vfio } else { &self.uio };
        ready(answer).then(|| format!("{}:{}", way.name(), self.address))
    }

    pub(super) fn headline(&self) -> String {
        let of = self.virtual_function_of.as_ref();
        let of = of.map_or_else(String::new, |card| format!(" · virtual function of {card}"));
        format!("PCI {}{of}", self.id)
    }

    /// The lines of its part: key, label, fact.
    pub(super) fn rows(&self) -> Vec<(&'static str, &'static str, String)> {
        let group = match (&self.iommu_group, &self.shares_group_with[..]) {
            (None, _) => "none".to_owned(),
            (Some(group), []) => format!("{group}, alone"),
            (Some(group), others) => {
                let names: Vec<String> = others.iter().map(Shared::name).collect();
                format!("{group}, with {}", names.join(", "))
            }
        };
        let known = self.known.unwrap_or("none of ours for it: af-xdp: and packet: go by the kernel's");
        let mut rows = vec![
            ("driver", "driven by", self.driven()),
            ("known", "our driver", known.to_owned()),
            ("group", "IOMMU group", group),
        ];
        if self.virtual_functions > 0 {
            rows.push(("virtual", "virtual", format!("{} functions on", self.virtual_functions)));
        }
        if self.known.is_some() {
            rows.push(("vfio", "vfio:", self.taken(&self.vfio)));
            rows.push(("uio", "uio:", self.taken(&self.uio)));
        }
        rows
    }

    fn driven(&self) -> String {
        let mut text = self.driver.clone().unwrap_or_else(|| "nobody".to_owned());
        if !self.interfaces.is_empty() {
            text += &format!(" · interface {}", self.interfaces.join(", "));
        }
        match (self.held, &self.holder) {
            (Held::ByRingway, _) => text += " · a ringway has it",
            (_, Some(who)) => text += &format!(" · {who}"),
            (_, None) => {}
        }
        text
    }

    fn taken(&self, answer: &Answer) -> String {
        match (&answer.reason, &self.in_use) {
            (Some(reason), _) => format!("no: {reason}"),
            (None, Some(why)) => format!("with force=on alone: {why}"),
            (None, None) => "yes".to_owned(),
        }
    }
}

impl Shared {
    fn of(neighbour: &Neighbour) -> Self {
        Self {
            address: neighbour.address.clone(),
            driver: neighbour.driver.clone(),
            in_the_way: neighbour.is_in_the_way(),
        }
    }

    fn name(&self) -> String {
        self.driver
            .as_ref()
            .map_or_else(|| self.address.clone(), |driver| format!("{} ({driver})", self.address))
    }
}

fn approach(survey: &Survey, way: Way) -> Option<&Approach> {
    survey.approaches.iter().find(|approach| approach.way == way)
}

/// Whether a door would let us at a card, and why not.
fn answer(survey: &Survey, approach: Option<&Approach>, known: Option<&'static str>) -> Answer {
    let mut reasons: Vec<String> = Vec::new();
    if known.is_none() {
        reasons.push("there is no driver of ours for it".to_owned());
    }
    match (&survey.owner, &survey.holder) {
        (Some(Owner::Ringway), _) => reasons.push("another ringway has it".to_owned()),
        (_, Some(who)) => reasons.push(who.clone()),
        (_, None) => {}
    }
    let obstacles = approach.into_iter().flat_map(|approach| &approach.obstacles);
    reasons.extend(obstacles.map(|obstacle| obstacle.reason.clone()));
    match reasons.is_empty() {
        true => Answer { verdict: Verdict::Yes, reason: None },
        false => Answer { verdict: Verdict::No, reason: Some(reasons.join("; ")) },
    }
}

/// Obstacles that are the machine's, not the card's: told once.
const OF_THE_MACHINE: [&str; 3] = ["vfio_module_missing", "uio_module_missing", "no_huge_pages_for_uio"];

/// The obstacles worth telling of a card, with the door's name as the line that they belong to. Where the better door is open,
/// what the other one lacks is nobody's concern.
fn obstacles(survey: &Survey) -> Vec<(&'static str, &Obstacle)> {
    let vfio = approach(survey, Way::Vfio).map_or(&[][..], |approach| &approach.obstacles);
    let uio = approach(survey, Way::Uio).map_or(&[][..], |approach| &approach.obstacles);
    let uio = if vfio.is_empty() { &[][..] } else { uio };
    let in_between = |obstacle: &&Obstacle| obstacle.code != "iommu_in_between";
    let uio = uio.iter().filter(in_between).map(|obstacle| ("uio", obstacle));
    vfio.iter().map(|obstacle| ("vfio", obstacle)).chain(uio).collect()
}

/// What the machine lacks for the cards that we have drivers for.
pub(super) fn of_machine(surveys: &[Survey]) -> Vec<Problem> {
    let mut found: Vec<Problem> = Vec::new();
    for survey in surveys.iter().filter(|survey| NicPort::knows(&survey.identity).is_some()) {
        for (_, obstacle) in obstacles(survey) {
            let told = found.iter().any(|problem| problem.code == obstacle.code);
            if OF_THE_MACHINE.contains(&obstacle.code) && !told {
                found.push(problem(Severity::Note, "pci", obstacle));
            }
        }
    }
    found
}

fn problem(severity: Severity, about: &'static str, obstacle: &Obstacle) -> Problem {
    Problem {
        severity,
        code: obstacle.code,
        about,
        message: obstacle.reason.clone(),
        cure: Some(obstacle.cure.clone()),
    }
}

fn problems(survey: &Survey, known: bool, held: Held) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(whereabouts(survey, held));
    if !known || held == Held::ByRingway {
        return found;
    }
    let in_use = survey.approaches.iter().find_map(|approach| approach.in_use.as_ref());
    found.extend(in_use.map(|obstacle| problem(Severity::Note, "driver", obstacle)));
    for (about, obstacle) in obstacles(survey) {
        if OF_THE_MACHINE.contains(&obstacle.code) {
            continue;
        }
        let severity = if obstacle.code == "iommu_group_shared" { Severity::Warning } else { Severity::Note };
        found.push(problem(severity, about, obstacle));
    }
    found
}

/// A card that has no interface: where it is, and how it comes back.
fn whereabouts(survey: &Survey, held: Held) -> Option<Problem> {
    let address = survey.address;
    let (severity, code, message, cure) = match (held, &survey.owner, survey.driver.as_deref()) {
        (Held::LeftBehind, Some(Owner::Nobody { former }), _) => {
            let to = former.as_deref().unwrap_or("nobody");
            let message = format!("a ringway that died has left it behind; it belongs to {to}");
            let cure = match &survey.holder {
                Some(who) => format!("sudo ringway doctor    # gives it back, once that has ended: {who}"),
                None => "sudo ringway doctor    # gives it back, or says why not".to_owned(),
            };
            (Severity::Warning, "left_behind", message, cure)
        }
        (Held::ByOther, ..) => {
            let who = survey.holder.clone().unwrap_or_default();
            (
                Severity::Note,
                "held_by_another",
                who,
                "end that process first, or name another device".to_owned(),
            )
        }
        (Held::No, _, None) => {
            let message = "no driver of the kernel's has it, so it has no interface".to_owned();
            let cure = format!(
                "echo {address} | sudo tee /sys/bus/pci/drivers_probe    # has the kernel look for one"
            );
            (Severity::Note, "no_driver", message, cure)
        }
        (Held::No, _, Some(driver)) if Way::is_door(driver) => {
            let message =
                format!("it waits at {driver} for a program such as this, and has no interface meanwhile");
            let cure = format!(
                "to give it to the kernel: cd /sys/bus/pci; echo {address} | sudo tee drivers/{driver}/unbind; echo | sudo tee \
                 devices/{address}/driver_override; echo {address} | sudo tee drivers_probe"
            );
            (Severity::Note, "at_a_door", message, cure)
        }
        _ => return None,
    };
    Some(Problem { severity, code, about: "driver", message, cure: Some(cure) })
}

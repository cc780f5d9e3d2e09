//! The report for people: one line a fact, each problem below the line that it is about, the cure after an arrow.

use super::card::Card;
use super::interface::{Answer, Interface, Verdict};
use super::judge::size;
use super::machine::{HugePages, Machine};
use super::{Colour, Problem, Report, Severity};
use std::fmt::Write as _;

/// Where the facts of a line begin.
const INDENT: usize = 18;
/// Where prose is broken.
const WIDTH: usize = 100;

/// One line of facts, and the key that problems use to say that they are about it.
type Row = (&'static str, &'static str, String);

pub(super) fn render(report: &Report, colour: Colour) -> String {
    let mut page = Page { text: String::new(), colour };
    page.section("machine", "");
    page.rows(&machine(&report.machine), &report.machine.problems);
    for unreadable in &report.machine.unreadable {
        page.fact("not readable", &format!("{}: {}", unreadable.what, unreadable.why));
    }
    for interface in &report.interfaces {
        page.section(&interface.name, &headline(interface));
        page.rows(&rows(interface), &interface.problems);
    }
    for card in &report.cards {
        page.section(&card.address, &card.headline());
        page.rows(&card.rows(), &card.problems);
    }
    if !report.problems.is_empty() {
        page.section("not found", "");
        report.problems.iter().for_each(|problem| page.problem(problem, 2));
    }
    page.verdict(report);
    page.text
}

struct Page {
    text: String,
    colour: Colour,
}

impl Page {
    fn section(&mut self, title: &str, detail: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let title = self.paint("1", title);
        self.line(format!("{title}  {detail}").trim_end());
    }

    fn rows(&mut self, rows: &[Row], problems: &[Problem]) {
        for (key, label, fact) in rows {
            self.fact(label, fact);
            let about = problems.iter().filter(|problem| problem.about == *key);
            about.for_each(|problem| self.problem(problem, 4));
        }
        // Nothing may be lost because a line of its name is missing.
        let known = |problem: &&Problem| !rows.iter().any(|(key, ..)| *key == problem.about);
        problems.iter().filter(known).for_each(|problem| self.problem(problem, 4));
    }

    fn fact(&mut self, label: &str, fact: &str) {
        let label = format!("  {label:<width$}", width = INDENT - 2);
        self.wrapped(&label, &" ".repeat(INDENT), fact);
    }

    fn problem(&mut self, problem: &Problem, indent: usize) {
        let (word, code) = match problem.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "33"),
            Severity::Note => ("note", "36"),
        };
        let pad = " ".repeat(indent);
        let start = self.text.len();
        self.wrapped(&format!("{pad}{word}: "), &format!("{pad}  "), &problem.message);
        let painted = self.paint(code, word);
        self.text.replace_range(start + indent..start + indent + word.len(), &painted);
        if let Some(cure) = &problem.cure {
            let cure = self.paint("32", cure);
            self.line(&format!("{pad}  -> {cure}"));
        }
    }

    fn verdict(&mut self, report: &Report) {
        let count = report.count;
        let number =
            |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
        let sum =
            [number(count.errors, "error"), number(count.warnings, "warning"), number(count.notes, "note")];
        self.text.push('\n');
        self.line(&sum.join(", "));
        let ready: Vec<&str> =
            report.interfaces.iter().filter(|port| is_ready(port)).map(|port| port.name.as_str()).collect();
        if !report.is_healthy() {
            self.line("AF_XDP cannot work here before the errors are cured.");
        } else if report.interfaces.is_empty() {
            // Only cards were asked for.
        } else if ready.is_empty() {
            self.line("The machine can forward with AF_XDP, but none of these interfaces is ready for it.");
        } else {
            self.line(&format!("Ready to forward with AF_XDP: {}", ready.join(", ")));
        }
        let cards: Vec<String> = report.cards.iter().filter_map(Card::ready).collect();
        if !cards.is_empty() {
            self.line(&format!("Ready to be driven without the kernel: {}", cards.join(", ")));
        }
    }

    /// `text` after `first`, broken at spaces, later lines after `rest`.
    fn wrapped(&mut self, first: &str, rest: &str, text: &str) {
        let mut line = first.to_owned();
        let mut empty = true;
        for word in text.split(' ') {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(line.trim_end());
                rest.clone_into(&mut line);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        self.line(line.trim_end());
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("a String takes everything");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.colour {
            Colour::Never => text.to_owned(),
            Colour::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// Up, with a carrier, and nothing in the way.
fn is_ready(interface: &Interface) -> bool {
    let in_the_way = |problem: &Problem| problem.severity > Severity::Note;
    interface.up && interface.carrier && !interface.problems.iter().any(in_the_way)
}

fn machine(machine: &Machine) -> Vec<Row> {
    let kernel = &machine.kernel;
    let af_xdp = match kernel.af_xdp {
        Some(true) => "AF_XDP: yes",
        Some(false) => "AF_XDP: no",
        None => "AF_XDP: may not be tried",
    };
    let brings = [
        ("shared memory", kernel.shared_umem),
        ("driver features", kernel.netdev_family),
        ("multi-buffer", kernel.multi_buffer),
        ("transmit metadata", kernel.transmit_metadata),
        ("long sends", kernel.transmit_budget),
    ];
    let list =
        |yes: bool| brings.iter().filter(|&&(_, has)| has == yes).map(|&(name, _)| name).collect::<Vec<_>>();
    let mut facts = format!("Linux {} · {af_xdp}", kernel.release);
    for (word, names) in [("with", list(true)), ("without", list(false))] {
        if !names.is_empty() {
            let _ = write!(facts, " · {word} {}", names.join(", "));
        }
    }
    let cpus = &machine.cpus;
    let isolated = if cpus.isolated.is_empty() { "none" } else { &cpus.isolated };
    let quota = cpus.quota.map_or_else(String::new, |quota| format!(" · quota {quota:.2}"));
    vec![
        ("kernel", "kernel", facts),
        ("rights", "rights", rights(machine)),
        ("huge_pages", "huge pages", huge_pages(&machine.huge_pages)),
        ("locked_memory", "locked memory", locked_memory(machine)),
        (
            "cpus",
            "CPUs",
            format!("online {} · usable {} · isolated {isolated}{quota}", cpus.online, cpus.allowed),
        ),
        ("bpf", "BPF", bpf(machine)),
        ("pci", "PCI cards", machine.pci.row()),
    ]
}

fn rights(machine: &Machine) -> String {
    let rights = &machine.rights;
    let all = [
        (rights.net_admin, "NET_ADMIN"),
        (rights.net_raw, "NET_RAW"),
        (rights.bpf, "BPF"),
        (rights.sys_admin, "SYS_ADMIN"),
        (rights.ipc_lock, "IPC_LOCK"),
        (rights.sys_resource, "SYS_RESOURCE"),
    ];
    let names =
        |held: bool| all.iter().filter(|&&(has, _)| has == held).map(|&(_, name)| name).collect::<Vec<_>>();
    let who = match (rights.root, rights.user_namespace) {
        (true, false) => "root",
        (true, true) => "root of a user namespace",
        (false, _) => "not root",
    };
    let mut text = who.to_owned();
    for (word, names) in [("has", names(true)), ("lacks", names(false))] {
        if !names.is_empty() {
            let _ = write!(text, " · {word} {}", names.join(", "));
        }
    }
    text
}

fn huge_pages(all: &[HugePages]) -> String {
    if all.is_empty() {
        return "this kernel shows none".to_owned();
    }
    let of_size = |pages: &HugePages| {
        let mut text = format!("{}: {} of {} free", size(pages.size_kib), pages.free, pages.total);
        if pages.nodes.len() > 1 {
            let nodes: Vec<String> = pages
                .nodes
                .iter()
                .map(|node| format!("node {}: {} of {}", node.node, node.free, node.total))
                .collect();
            let _ = write!(text, " ({})", nodes.join(", "));
        }
        text
    };
    all.iter().map(of_size).collect::<Vec<_>>().join(" · ")
}

fn locked_memory(machine: &Machine) -> String {
    let limit = machine
        .memlock_bytes
        .map_or_else(|| "no limit".to_owned(), |bytes| format!("limit {}", size(bytes >> 10)));
    match (machine.memlock_bytes, machine.rights.ipc_lock) {
        (Some(_), true) => format!("{limit}, which does not count with IPC_LOCK"),
        (Some(_), false) => format!("{limit}, which counts without IPC_LOCK"),
        (None, _) => limit,
    }
}

fn bpf(machine: &Machine) -> String {
    let say = |fact: Option<bool>, yes: &str, no: &str| {
        fact.map_or("unknown", |is| if is { yes } else { no }).to_owned()
    };
    format!(
        "JIT {} · BTF {} · unprivileged loading {}",
        say(machine.bpf.jit, "on", "off"),
        if machine.bpf.btf { "present" } else { "absent" },
        say(machine.bpf.unprivileged, "allowed", "not allowed"),
    )
}

fn headline(interface: &Interface) -> String {
    let driver = if interface.driver.is_empty() { "unknown driver" } else { &interface.driver };
    let peer = interface.peer.as_ref().map_or_else(String::new, |peer| format!(" · other end {}", peer.name));
    let master = interface.master.as_ref().map_or_else(String::new, |master| format!(" · part of {master}"));
    format!("{driver} · {}{peer}{master}", interface.mac)
}

fn rows(interface: &Interface) -> Vec<Row> {
    let mut rows = vec![
        ("link", "link", link(interface)),
        ("mtu", "frames", frames(interface)),
        ("queues", "queues", queues(interface)),
        ("xdp", "XDP", xdp(interface)),
        ("zero_copy", "zero-copy", zero_copy(&interface.zero_copy)),
        ("checksums", "TX checksums", checksums(interface)),
        ("offloads", "offloads on", offloads(interface)),
        ("program", "XDP program", program(interface)),
    ];
    if let Some(node) = interface.numa_node {
        rows.push(("numa", "memory node", node.to_string()));
    }
    rows
}

fn link(interface: &Interface) -> String {
    let state = match (interface.up, interface.carrier) {
        (true, true) => "up, carrier",
        (true, false) => "up, no carrier",
        (false, _) => "down",
    };
    let promiscuous = if interface.promiscuous { ", promiscuous" } else { "" };
    let route = if interface.default_route { ", default route" } else { "" };
    format!("{state}{promiscuous}{route}")
}

fn frames(interface: &Interface) -> String {
    let fits = if interface.fits_single_buffer { "fits one buffer" } else { "needs several buffers" };
    format!("MTU {} · largest frame {} bytes, {fits}", interface.mtu, interface.largest_frame)
}

fn queues(interface: &Interface) -> String {
    let limit = interface.receive_queue_limit.map_or_else(String::new, |limit| format!(" (of {limit})"));
    format!("{} receive{limit} · {} transmit", interface.receive_queues, interface.transmit_queues)
}

fn xdp(interface: &Interface) -> String {
    let (native, generic) = (&interface.native, &interface.generic);
    let mut text = format!("native: {} · skb mode: {}", answer(native), answer(generic));
    let segments = match interface.multi_buffer.zero_copy_segments {
        0 | 1 => String::new(),
        segments => format!(" (zero-copy: {segments})"),
    };
    let _ = write!(text, " · multi-buffer: {}{segments}", word(interface.multi_buffer.copy));
    if !interface.receive_metadata.is_empty() {
        let _ = write!(text, " · metadata: {}", interface.receive_metadata.join(", "));
    }
    text
}

fn checksums(interface: &Interface) -> String {
    let copy = if interface.transmit_checksum.copy { "by the kernel" } else { "by Ringway" };
    let zero_copy = match (interface.zero_copy.verdict, interface.transmit_checksum.zero_copy) {
        (Verdict::No, _) => "",
        (_, Verdict::Yes) => " · zero-copy: by the device",
        (_, Verdict::No) => " · zero-copy: by Ringway",
        (_, Verdict::Unknown) => " · zero-copy: unknown",
    };
    format!("copy mode: {copy}{zero_copy}")
}

fn offloads(interface: &Interface) -> String {
    match &interface.offloads {
        None => "unknown: the kernel does not say".to_owned(),
        Some(on) if on.is_empty() => "none".to_owned(),
        Some(on) => on.join(", "),
    }
}

fn program(interface: &Interface) -> String {
    match &interface.attached {
        None => "none attached".to_owned(),
        Some(program) => format!("id {}, {}", program.id, program.mode),
    }
}

fn zero_copy(answer: &Answer) -> String {
    match (answer.verdict, &answer.reason) {
        (Verdict::Yes, _) => {
            "yes, says the driver; what a socket really got is read back after binding".to_owned()
        }
        (verdict, Some(reason)) => format!("{}: {reason}", word(verdict)),
        (verdict, None) => word(verdict).to_owned(),
    }
}

fn answer(answer: &Answer) -> String {
    match &answer.reason {
        None => word(answer.verdict).to_owned(),
        Some(reason) => format!("{} ({reason})", word(answer.verdict)),
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Yes => "yes",
        Verdict::No => "no",
        Verdict::Unknown => "unknown",
    }
}

//! The laboratory itself: it comes, it goes, and it leaves nothing behind whatever happens.
#![forbid(unsafe_code)]

use dataplane::lab::{Lab, LabError, LabPlan, Namespace, Side, sweep};
use lab::{TestLab, needs};
use std::path::Path;

fn stands(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
}

fn names(plan: &LabPlan) -> [String; 3] {
    ["left", "right", "mid"].map(|role| format!("{}-{role}", plan.name))
}

/// Two hosts that nothing joins cannot reach each other; dropped, no part of them is left.
#[test]
fn it_comes_and_it_goes() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let names = names(lab.plan());
    assert!(names.iter().all(|name| stands(name)));
    assert_eq!(Lab::find(lab.plan()).expect("an answer").len(), 5, "three namespaces and two ports");
    assert_eq!(Lab::find(lab.plan()).expect("an answer").len(), 5, "to look must not remove");
    drop(lab);
    assert!(!names.iter().any(|name| stands(name)));
}

/// A test that panics takes its laboratory with it.
#[test]
fn it_goes_when_its_owner_panics() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let plan = LabPlan::private("rwt");
    let names = names(&plan);
    let owner = std::thread::spawn(move || {
        let lab = Lab::up(&plan).expect("a laboratory");
        panic!("{} stands, and now this", lab.plan().name);
    });
    assert!(owner.join().is_err());
    assert!(!names.iter().any(|name| stands(name)));
}

/// A refusal touches nothing, and what was built before a failure is undone.
#[test]
fn a_failure_half_way_is_undone() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let again = Lab::up(lab.plan()).expect_err("it stands");
    assert!(matches!(&again, LabError::Stands { found, .. } if found.len() == 5), "{again}");
    assert!(again.to_string().contains("ringway lab down"), "{again}");
    assert_eq!(Lab::find(lab.plan()).expect("an answer").len(), 5, "the refusal touched nothing");

    let plan = LabPlan::private("rwt");
    let mut steps = 0;
    let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Lab::up_watched(&plan, &mut |_| {
            steps += 1;
            assert!(steps < 15, "enough of the laboratory stands");
        })
    }));
    assert!(interrupted.is_err());
    assert_eq!(Lab::find(&plan).expect("an answer"), Vec::<String>::new());
}

/// What a killed process left behind goes with the next laboratory; what is of a living one stays.
#[test]
fn remains_of_the_dead_are_swept_away() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let mut child = std::process::Command::new("true").spawn().expect("a process");
    let pid = child.id();
    child.wait().expect("its end");
    let dead = format!("rwt-{pid}-0-left");
    let living = LabPlan::private("rwt");
    Lab::up(&living).expect("a laboratory").keep();
    let added = std::process::Command::new("ip").args(["netns", "add", &dead]).status().expect("ip");
    assert!(added.success());
    // Another test's `up` may have swept meanwhile: so who removed it is not asked.
    sweep().expect("a sweep");
    assert!(!stands(&dead));
    assert!(names(&living).iter().all(|name| stands(name)));
    let removed = Lab::take_down(&living).expect("it stands");
    assert_eq!(removed.len(), 5, "{removed:?}");
    assert!(matches!(Lab::take_down(&living), Err(LabError::Absent { .. })));
}

/// Half a laboratory is recognised and taken down.
#[test]
fn half_of_it_can_be_taken_down() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let plan = LabPlan::private("rwt");
    Lab::up(&plan).expect("a laboratory").keep();
    let middle = Namespace::named(&names(&plan)[2]).expect("the middle");
    TestLab::run(&middle, "ip", "link del rw-left").expect("a cable cut");
    assert!(matches!(Lab::up(&plan), Err(LabError::Stands { found, .. }) if found.len() == 4));
    assert_eq!(Lab::take_down(&plan).expect("half of it").len(), 4);
    assert_eq!(Lab::find(&plan).expect("an answer"), Vec::<String>::new());
}

/// A thread enters a namespace and comes back, nested too; a panic inside `run` arrives with its own words.
#[test]
fn threads_enter_and_come_back() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let here = || std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let lab = TestLab::up().expect("a laboratory");
    let home = here();
    let left = lab.host(Side::Left).run(here).expect("inside");
    assert_ne!(left, home);
    {
        let _left = lab.host(Side::Left).enter().expect("inside");
        assert_eq!(here(), left);
        {
            let _right = lab.host(Side::Right).enter().expect("inside");
            assert_ne!(here(), left);
        }
        assert_eq!(here(), left);
    }
    assert_eq!(here(), home);
    let inside = lab.host(Side::Right);
    let panic = std::panic::catch_unwind(|| inside.run(|| panic!("these words"))).expect_err("a panic");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"these words"));
}

/// The plan is what the kernel then has: queues, MTU, addresses at the hosts, none at the ports.
#[test]
fn it_is_what_was_planned() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| (plan.queues, plan.mtu) = (3, 9000)).expect("a laboratory");
    let show = |namespace: &Namespace, args: &str| {
        let output = namespace.command("ip").args(args.split(' ')).output().expect("ip");
        String::from_utf8(output.stdout).expect("text")
    };
    for side in Side::BOTH {
        for text in [
            show(lab.host(side), &format!("-d link show dev {}", side.interface())),
            show(lab.middle(), &format!("-d link show dev {}", side.port())),
        ] {
            assert!(
                text.contains("mtu 9000") && text.contains("numrxqueues 3") && text.contains("UP"),
                "{text}"
            );
        }
        let host = show(lab.host(side), &format!("addr show dev {}", side.interface()));
        assert!(host.contains(&side.ipv4().to_string()) && host.contains(&side.ipv6().to_string()), "{host}");
        assert!(!host.contains("tentative"), "{host}");
        assert!(!show(lab.middle(), &format!("addr show dev {}", side.port())).contains("inet"));
    }
}

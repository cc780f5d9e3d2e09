//! A browser: a page with a style sheet, a script and images, loaded and rendered by headless Chromium.
//!
//! ```text
//!   left: chromium ── left0 ══ rw-left [ serve ] ── page.html, style.css, look.js, 12 images
//! ```
//!
//! `RINGWAY_SCREENSHOT=page.png` keeps what it rendered, to be looked at.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{Server, Tree, url};
use lab::{Outcome, TestLab, needs};
use std::fmt::Write;

/// Pixels of the images, in a file each.
const WIDTHS: [u32; 12] = [1, 2, 3, 16, 40, 64, 100, 128, 200, 256, 300, 400];

/// A bitmap of `width` by 60 pixels: a gradient, 24 bits a pixel, no compression.
fn bitmap(width: u32) -> Vec<u8> {
    const HEIGHT: u32 = 60;
    let row = (width * 3).next_multiple_of(4);
    let size = 54 + row * HEIGHT;
    let mut file = b"BM".to_vec();
    for number in [size, 0, 54, 40, width, HEIGHT] {
        file.extend(number.to_le_bytes());
    }
    file.extend([1, 0, 24, 0]);
    file.resize(54, 0);
    for y in 0..HEIGHT {
        let pixels = (0..width).flat_map(|x| {
            [x * 255 / width, y * 4, 128].map(|value| u8::try_from(value % 256).expect("below 256"))
        });
        file.extend(pixels);
        file.resize((54 + row * (y + 1)) as usize, 0);
    }
    file
}

fn site(tree: &Tree) -> Outcome<()> {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Ringway</title>\
         <link rel=stylesheet href=/style.css><h1>Served by Ringway</h1><p id=seen>not yet</p>",
    );
    for width in WIDTHS {
        tree.write(&format!("images/{width}.bmp"), &bitmap(width))?;
        write!(page, "<img src=/images/{width}.bmp alt={width}> ")?;
    }
    page.push_str("<script src=/look.js></script></html>");
    tree.write("index.html", page.as_bytes())?;
    tree.write(
        "style.css",
        b"body { background: #eef } h1 { color: rgb(1, 2, 203) } img { border: 1px solid }",
    )?;
    tree.write(
        "look.js",
        b"addEventListener('load', () => {\
            const widths = [...document.images].map(image => image.naturalWidth).join(',');\
            const color = getComputedStyle(document.querySelector('h1')).color;\
            document.getElementById('seen').textContent = `widths ${widths} color ${color}`;\
        });",
    )
}

/// All of it arrives and is used, as the page's own script sees it.
#[test]
fn a_browser_renders_a_page() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "chromium");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let (tree, profile) = (Tree::new().expect("a folder"), Tree::new().expect("a folder"));
    site(&tree).expect("a site");
    let server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    let shot = profile.path().join("page.png");
    let mut command = lab.host(Side::Left).command("timeout");
    command.args(["60", "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--window-size=900,500"]);
    command.args(["--virtual-time-budget=5000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.path().join("profile").display()));
    command.arg(format!("--screenshot={}", shot.display()));
    let output = command.arg(url("/")).output().expect("chromium");
    let dom = String::from_utf8_lossy(&output.stdout);
    let widths = WIDTHS.map(|width| width.to_string()).join(",");
    let want = format!("widths {widths} color rgb(1, 2, 203)");
    assert!(dom.contains(&want), "{want:?} is not in {dom:?}: {}", String::from_utf8_lossy(&output.stderr));
    let picture = std::fs::read(&shot).expect("a screenshot");
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 5000, "{} bytes", picture.len());
    if let Some(place) = std::env::var_os("RINGWAY_SCREENSHOT") {
        std::fs::copy(&shot, place).expect("a copy to look at");
    }
    let report = server.finish().expect("books in order");
    let least = 3 + WIDTHS.len() as u64;
    assert!(report.served("responses_2xx") >= least, "{}", report.end);
    assert_eq!(report.served("requests_refused"), 0, "{}", report.end);
}

//! Plots of the comparison as SVG: bars beside names, and ranges of latency. Drawn with plotters, without fonts or bitmaps.
//!
//! Colours are those of the page: each is drawn as a number that stands for one of its variables, so that one picture is right in light
//! and in dark.

use super::method::{Method, Way};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{LightPoints, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    Circle, DrawingArea, IntoDrawingArea, IntoFont, IntoTextStyle, PathElement, RGBColor, Rectangle,
    SVGBackend, ShapeStyle, TextStyle,
};
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A variable of the page's style sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Ink,
    Muted,
    Grid,
    Bypass,
    Kernel,
    Nginx,
    User,
    System,
    Softirq,
}

impl Colour {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Ink, "ink"),
        (Self::Muted, "muted"),
        (Self::Grid, "grid"),
        (Self::Bypass, "bypass"),
        (Self::Kernel, "kernel"),
        (Self::Nginx, "nginx"),
        (Self::User, "user"),
        (Self::System, "system"),
        (Self::Softirq, "softirq"),
    ];

    /// Who serves decides.
    pub(super) fn of(method: &str) -> Self {
        match Method::named(method).map(|method| method.way) {
            Some(Way::Bypass { .. }) => Self::Bypass,
            Some(Way::Nginx { .. }) => Self::Nginx,
            _ => Self::Kernel,
        }
    }

    /// Its name in the style sheet.
    pub(super) fn variable(self) -> &'static str {
        Self::ALL.iter().find(|(colour, _)| *colour == self).map_or("ink", |(_, name)| name)
    }

    /// The number that it is drawn as.
    const fn number(self) -> RGBColor {
        RGBColor(1, 2, 10 + self as u8)
    }

    fn filled(self) -> ShapeStyle {
        self.number().filled()
    }

    fn line(self, width: u32) -> ShapeStyle {
        self.number().stroke_width(width)
    }
}

/// A bar of parts, one after another.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) parts: Vec<(f64, Colour)>,
    /// From the least to the greatest round.
    pub(super) spread: Option<(f64, f64)>,
    /// What is written behind it.
    pub(super) text: String,
}

/// A range of latency, in microseconds: 50, 90, 99 and 99.9 of a hundred.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) name: String,
    pub(super) points: [f64; 4],
    pub(super) colour: Colour,
}

const WIDTH: i32 = 420;
const ROW: i32 = 22;
/// Where bars begin: the longest name fits before it.
const LEFT: i32 = 122;
/// Room behind the longest bar for its text, at least.
const RIGHT: i32 = 62;
const TOP: i32 = 6;
/// For the numbers of the axis.
const BOTTOM: i32 = 22;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Writing to a string does not fail; what can is a shape that is no number, and none is.
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Bars beside each other's names; `unit` is what the axis counts.
pub(super) fn bars(label: &str, bars: &[Bar], unit: &str) -> Option<String> {
    let longest = bars.iter().map(|bar| bar.spread.map_or(0.0, |(_, greatest)| greatest).max(sum(bar)));
    let longest = longest.fold(0.0, f64::max);
    let scale = if longest > 0.0 { longest } else { 1.0 };
    let room = bars.iter().map(|bar| bar.text.chars().count()).max().unwrap_or(0);
    // A digit is about seven wide.
    let right = RIGHT.max(10 + 7 * i32::try_from(room).unwrap_or(0));
    let along = move |value: f64| LEFT + pixels(value / scale * f64::from(WIDTH - LEFT - right));
    picture(label, bars.len(), |area, height| {
        let range = RangedCoordf64::from(0.0..scale);
        for tick in range.key_points(LightPoints::new(4, 4)) {
            let text = if tick == 0.0 { "0".to_owned() } else { format!("{tick} {unit}") };
            grid(area, along(tick), height, text.trim_end())?;
        }
        for (row, bar) in (0..).zip(bars) {
            let middle = name(area, row, &bar.name)?;
            let mut at = 0.0;
            for (value, colour) in &bar.parts {
                let corners = [(along(at), middle - 6), (along(at + value), middle + 6)];
                area.draw(&Rectangle::new(corners, colour.filled()))?;
                at += value;
            }
            let mut end = at;
            if let Some((least, greatest)) = bar.spread.filter(|(least, greatest)| greatest > least) {
                let points = vec![(along(least), middle), (along(greatest), middle)];
                area.draw(&PathElement::new(points, Colour::Ink.line(1)))?;
                end = end.max(greatest);
            }
            write(area, &bar.text, (along(end) + 6, middle), HPos::Left, Colour::Ink)?;
        }
        Ok(())
    })
}

/// Ranges over a logarithmic axis.
pub(super) fn ranges(label: &str, ranges: &[Range]) -> Option<String> {
    let all = || ranges.iter().flat_map(|range| range.points).filter(|point| *point > 0.0);
    let (least, greatest) = (all().fold(f64::MAX, f64::min), all().fold(1.0, f64::max));
    let (from, to) = (least.log10().floor(), greatest.log10().ceil().max(least.log10().floor() + 1.0));
    let along = move |value: f64| {
        let part = (value.max(10_f64.powf(from)).log10() - from) / (to - from);
        LEFT + pixels(part * f64::from(WIDTH - LEFT - 20))
    };
    picture(label, ranges.len(), |area, height| {
        let mut decade = from;
        while decade <= to {
            let value = 10_f64.powf(decade);
            grid(area, along(value), height, &time_words(value))?;
            decade += 1.0;
        }
        for (row, range) in (0..).zip(ranges) {
            let middle = name(area, row, &range.name)?;
            let [p50, p90, p99, p999] = range.points.map(along);
            let line = vec![(p50, middle), (p999, middle)];
            area.draw(&PathElement::new(line, range.colour.line(2)))?;
            area.draw(&Circle::new((p50, middle), 5, range.colour.filled()))?;
            area.draw(&Circle::new((p90, middle), 3, range.colour.filled()))?;
            area.draw(&Circle::new((p99, middle), 3, range.colour.filled()))?;
            let tick = vec![(p999, middle - 5), (p999, middle + 5)];
            area.draw(&PathElement::new(tick, range.colour.line(2)))?;
        }
        Ok(())
    })
}

/// `250 us`, `1 ms`
pub(super) fn time_words(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.0} \u{b5}s"),
        ..1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.0} s", micros / 1e6),
    }
}

fn sum(bar: &Bar) -> f64 {
    bar.parts.iter().map(|(value, _)| value).sum()
}

/// A picture of so many rows, as SVG that takes the width that it is given and the page's colours.
fn picture(label: &str, rows: usize, draw: impl FnOnce(&Area<'_>, i32) -> Drawn) -> Option<String> {
    let rows = i32::try_from(rows).ok().filter(|rows| *rows > 0)?;
    let height = TOP + rows * ROW + BOTTOM;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH.unsigned_abs(), height.unsigned_abs()));
        let area = area.into_drawing_area();
        let drawn = draw(&area, height).and_then(|()| Ok(area.present()?));
        if let Err(error) = drawn {
            tracing::warn!("{label} could not be drawn: {error}");
            return None;
        }
    }
    Some(dressed(&svg, label, height))
}

/// With the page's variables for the numbers that stand for them, and no size of its own.
fn dressed(svg: &str, label: &str, height: i32) -> String {
    let mut svg = svg.replace("sans-serif", "inherit");
    for (colour, name) in Colour::ALL {
        let RGBColor(red, green, blue) = colour.number();
        svg = svg.replace(&format!("#{red:02X}{green:02X}{blue:02X}"), &format!("var(--{name})"));
    }
    let inside = svg.split_once('>').map_or("", |(_, inside)| inside);
    let label = super::html::escaped(label);
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\">{inside}")
}

fn grid(area: &Area<'_>, x: i32, height: i32, text: &str) -> Drawn {
    let bottom = height - BOTTOM + 2;
    area.draw(&PathElement::new(vec![(x, TOP), (x, bottom)], Colour::Grid.line(1)))?;
    write(area, text, (x, bottom + 10), HPos::Center, Colour::Muted)
}

/// The name of a row; returns the height of its middle.
fn name(area: &Area<'_>, row: i32, name: &str) -> Result<i32, Box<dyn std::error::Error>> {
    let middle = TOP + row * ROW + ROW / 2;
    write(area, name, (LEFT - 8, middle), HPos::Right, Colour::Ink)?;
    Ok(middle)
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), side: HPos, colour: Colour) -> Drawn {
    let colour = colour.number();
    let style: TextStyle<'_> = ("sans-serif", 13).into_font().into_text_style(area).color(&colour);
    Ok(area.draw_text(text, &style.pos(Pos::new(side, VPos::Center)), at)?)
}

#[expect(clippy::cast_possible_truncation, reason = "a place in a picture of a few hundred pixels")]
fn pixels(value: f64) -> i32 {
    value.round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_drawn_in_the_colours_of_the_page_and_names_are_escaped() {
        let bar = |name: &str, value| Bar {
            name: name.to_owned(),
            parts: vec![(value, Colour::Bypass), (value / 2.0, Colour::System)],
            spread: Some((value, value * 2.0)),
            text: "<1>".to_owned(),
        };
        let svg = bars("a \"plot\"", &[bar("a<b", 10.0), bar("c", 0.0)], "s");
        let svg = svg.expect("two bars");
        for part in [
            "var(--bypass)",
            "var(--system)",
            "var(--ink)",
            "var(--grid)",
            "a&lt;b",
            "&lt;1&gt;",
            "a &quot;plot&quot;",
        ] {
            assert!(svg.contains(part), "{part} is missing in {svg}");
        }
        assert!(!svg.contains("#0102"), "a colour without a variable: {svg}");
        assert!(svg.starts_with("<svg viewBox") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(bars("none", &[], ""), None);
    }

    #[test]
    fn latency_is_drawn_also_where_all_points_are_one() {
        let range = Range { name: "x".into(), points: [100.0; 4], colour: Colour::Kernel };
        let svg = ranges("latency", &[range]).expect("one range");
        assert!(svg.contains("100 \u{b5}s") && svg.contains("1 ms"), "{svg}");
        assert!(ranges("none", &[]).is_none());
    }
}

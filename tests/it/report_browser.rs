//! The report in a real browser: no error on the console, choices and tooltips work, nothing is wider than a phone.
//!
//! Where no Chromium is found it says so and passes, unless `SDMOE_BROWSER` names one. `SDMOE_SCREENSHOTS=DIR` keeps the
//! pictures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::plant::{BASELINE, LARGE, Plant, SMALL};
use sdmoe::analysis::pairs::Detail;
use sdmoe::report::{write, write_comparison};

/// What a browser is called.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

fn browser() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SDMOE_BROWSER") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    let all = std::env::split_paths(&path).flat_map(|dir| NAMES.map(|n| dir.join(n)));
    let found = all.into_iter().find(|p| p.is_file());
    if found.is_none() {
        crate::common::untested("no Chromium here (Debian: apt-get install -y --no-install-recommends chromium)");
    }
    found
}

/// Runs the browser on `page`; what it printed to the console and to its output.
fn run(browser: &Path, home: &Path, width: u32, height: u32, arguments: &[String], page: &Path) -> (String, String) {
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
        .args([
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--virtual-time-budget=3000",
        ])
        .arg(format!("--user-data-dir={}", home.display()))
        .arg(format!("--window-size={width},{height}"))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let console = log.lines().filter(|l| l.contains("CONSOLE")).collect::<Vec<_>>().join("\n");
    (console, String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Uses the page as a reader would, in a frame of a phone's width, and says what it found.
const PROBE: &str = r##"
addEventListener("load", () => {
  const say = [];
  const doc = document.documentElement;
  const over = [...document.querySelectorAll("body *")].filter(e => !e.closest(".wide") && !e.closest("svg")
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className);
  say.push("width " + innerWidth, "over " + (over.join(" ") || "nothing"));
  const heat = document.querySelector("svg[data-heat^='similarity.']");
  const before = heat.querySelector("g.cells").innerHTML;
  const select = document.querySelector(".choices[data-for=similarity] select[data-name=matrix]");
  const point = (svg, x, y) => {
    const p = svg.createSVGPoint();
    p.x = x; p.y = y;
    const q = p.matrixTransform(svg.getScreenCTM());
    svg.dispatchEvent(new PointerEvent("pointerdown", { clientX: q.x, clientY: q.y, bubbles: true, pointerType: "touch" }));
    return document.getElementById("tip").textContent;
  };
  const box = heat.querySelector("g.cells").dataset.box.split(" ").map(Number);
  const cell = (i, j, n) => point(heat, box[0] + (j + 0.5) * box[2] / n, box[1] + (i + 0.5) * box[3] / n);
  const experts = Number(document.body.dataset.experts);
  say.push("cell " + cell(0, 1, experts), "own " + cell(2, 2, experts));
  // What the script draws for the first choice is what the page came with.
  select.dispatchEvent(new Event("change", { bubbles: true }));
  say.push("same " + (heat.querySelector("g.cells").querySelectorAll("path").length === new DOMParser().parseFromString("<svg xmlns='http://www.w3.org/2000/svg'>" + before + "</svg>", "image/svg+xml").querySelectorAll("path").length));
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change", { bubbles: true }));
  say.push("redrawn " + (before !== heat.querySelector("g.cells").innerHTML), "shown " + getComputedStyle(select.parentNode.parentNode).display);
  const chart = document.querySelector("#trend svg");
  const first = chart.querySelector("g[data-label] polyline").points[0];
  say.push("line " + point(chart, first.x, first.y));
  const out = document.createElement("pre");
  out.id = "said";
  out.textContent = say.join("\n");
  document.body.append(out);
});
"##;

#[test]
fn a_browser_renders_the_report_and_a_reader_can_use_it() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let (baseline, decoupled) = (BASELINE.analysis("baseline"), SMALL.analysis("sd-moe"));
    let large = LARGE.analysis("Qwen1.5-MoE-A2.7B");
    let many = Plant { layers: 4, experts: 128, ..LARGE }.kept("many", Detail::Top);
    write(&dir.path().join("one"), &decoupled).unwrap();
    write(&dir.path().join("many"), &many).unwrap();
    write(&dir.path().join("large"), &large).unwrap();
    write_comparison(&dir.path().join("two"), &baseline, &decoupled).unwrap();
    let single = ["cell expert 0 \u{d7} expert 1: 0.", "own expert 2 \u{d7} expert 2: itself"];
    let blocks = [
        "cell experts 0\u{2013}3 \u{d7} experts 4\u{2013}7: 0.",
        "own experts 8\u{2013}11 \u{d7} experts 8\u{2013}11: 0.",
    ];
    for (name, cells, said_of_cells) in
        [("one", 8, single), ("large", 60, single), ("two", 8, single), ("many", 32, blocks)]
    {
        let page = dir.path().join(name).join("report.html");
        for (kind, width, height) in [("desktop", 1280, 2400), ("phone", 390, 2400)] {
            let picture = dir.path().join(format!("{name}-{kind}.png"));
            let arguments = [format!("--screenshot={}", picture.display())];
            let (console, _) = run(&browser, &home, width, height, &arguments, &page);
            assert_eq!(console, "", "{name}, {kind}");
            let bytes = fs::read(&picture).unwrap();
            // The width stands at the start of a PNG's first chunk.
            assert_eq!(bytes[16..20], width.to_be_bytes(), "{name}, {kind}");
            assert!(bytes.len() > 50_000, "{name}, {kind}: an empty picture of {} bytes", bytes.len());
            if let Some(kept) = std::env::var_os("SDMOE_SCREENSHOTS") {
                fs::create_dir_all(&kept).unwrap();
                fs::copy(&picture, Path::new(&kept).join(picture.file_name().unwrap())).unwrap();
            }
        }
        // Without a picture a window is at least 500 px wide; a frame can be as narrow as a phone.
        let text = fs::read_to_string(&page).unwrap();
        let body = format!("<body data-experts=\"{cells}\">");
        let probed = text.replace("<body>", &body).replace("</body>", &format!("<script>{PROBE}</script></body>"));
        let probe = page.with_file_name("probe.html");
        fs::write(&probe, probed).unwrap();
        let frame = page.with_file_name("frame.html");
        let script = "const f = document.querySelector('iframe'); f.onload = () => setTimeout(() => { const p = document.createElement('pre'); p.id = 'said'; p.textContent = f.contentDocument.getElementById('said').textContent; document.body.append(p); }, 200);";
        fs::write(&frame, format!("<!DOCTYPE html><html><body><iframe width=390 height=844 src=probe.html></iframe><script>{script}</script></body></html>")).unwrap();
        let arguments = ["--dump-dom".to_owned(), "--allow-file-access-from-files".into()];
        let (console, dom) = run(&browser, &home, 1280, 1000, &arguments, &frame);
        assert_eq!(console, "", "{name}");
        let start = dom.find("<pre id=\"said\">").unwrap_or_else(|| panic!("{dom}")) + 15;
        let said: Vec<&str> = dom[start..start + dom[start..].find("</pre>").unwrap()].lines().collect();
        println!("{name}: {said:?}");
        let starts = |prefix: &str| said.iter().any(|l| l.starts_with(prefix));
        assert!(starts("width 390") && starts("over nothing"), "{name}: {said:?}");
        assert!(said_of_cells.into_iter().all(starts), "{name}: {said:?}");
        assert!(starts("same true") && starts("redrawn true") && starts("shown flex"), "{name}: {said:?}");
        assert!(said.iter().any(|l| l.starts_with("line ") && l.contains("layer 0: 0.")), "{name}: {said:?}");
    }
}

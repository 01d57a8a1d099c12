//! The report: complete, well-formed, escaped, self-contained, of bounded size, and the same for the same record.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::plant::{BASELINE, HOSTILE, LARGE, Plant, SMALL};
use sdmoe::Error;
use sdmoe::analysis::pairs::Detail;
use sdmoe::analysis::record::{Analysis, KeptPairs, Of, Part};
use sdmoe::report::{terminal_table, write, write_comparison};

/// All files below `dir`, by their paths in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn report(analyses: &[&Analysis]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    match analyses {
        [a] => write(dir.path(), a),
        [a, b] => write_comparison(dir.path(), a, b),
        _ => panic!("one or two"),
    }
    .unwrap();
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    (dir, page)
}

/// The page without the script, its data, and what XML does not know: the doctype and `meta` without an end.
fn markup(page: &str) -> String {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a doctype");
    let mut text = String::new();
    for (open, close) in [("<meta", ">"), ("<script", "</script>")] {
        while let Some(start) = rest.find(open) {
            let end = start + rest[start..].find(close).unwrap() + close.len();
            text.push_str(&rest[..start]);
            rest = &rest[end..];
        }
    }
    text + rest
}

/// The data that the script reads.
fn data(page: &str) -> serde_json::Value {
    let open = "<script type=\"application/json\" id=\"data\">";
    let start = page.find(open).unwrap() + open.len();
    let text = &page[start..start + page[start..].find("</script>").unwrap()];
    serde_json::from_str(text).unwrap()
}

/// Digits of packed cells.
const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const SECTIONS: [&str; 10] = [
    "weights",
    "spectra",
    "gradients",
    "gates",
    "activations",
    "jacobians",
    "routed-pca",
    "load",
    "decoupling",
    "training",
];

#[test]
fn every_section_is_there_and_the_missing_ones_say_what_gives_them() {
    let whole = SMALL.analysis("small");
    let weights = LARGE.analysis("large");
    for (analysis, missing) in [
        (&whole, &[][..]),
        (&weights, &["gradients", "activations", "jacobians", "routed-pca", "load", "decoupling", "training"]),
    ] {
        let (dir, page) = report(&[analysis]);
        let text = markup(&page);
        let document = roxmltree::Document::parse(&text).unwrap();
        let by_id =
            |id: &str| document.descendants().find(|n| n.attribute("id") == Some(id)).unwrap_or_else(|| panic!("{id}"));
        for id in SECTIONS {
            let section = by_id(id);
            let figures = section.descendants().filter(|n| n.has_tag_name("figure")).count();
            let words: String = section.descendants().filter_map(|n| n.text()).collect();
            assert_eq!(figures == 0, missing.contains(&id), "{id} has {figures} figures");
            assert_eq!(words.contains("Not measured: "), missing.contains(&id), "{id}");
        }
        for figure in document.descendants().filter(|n| n.has_tag_name("figure")) {
            let words: String = figure.descendants().filter_map(|n| n.text()).collect();
            let id = figure.attribute("id").unwrap();
            assert!(words.contains("Chance. ") && words.contains("Definition: METHOD"), "{id}: {words}");
            assert!(dir.path().join(format!("figures/{id}.svg")).is_file(), "{id}");
        }
        for svg in document.descendants().filter(|n| n.tag_name().name() == "svg") {
            assert_eq!(svg.attribute("role"), Some("img"));
            assert!(svg.attribute("aria-label").is_some_and(|l| l.len() > 20));
        }
    }
}

#[test]
fn what_is_undefined_is_called_so_and_never_printed_as_a_number() {
    let mut analysis = SMALL.analysis("small");
    // What a record must not hold, but a bug could put there.
    analysis.similarity[0].mean_offdiag = Some(f64::NAN);
    let KeptPairs::Whole(pairs) = &mut analysis.similarity[0].pairs else { panic!("all pairs") };
    pairs[0][1] = Some(f64::INFINITY);
    analysis.spectra[0].stable_rank = f64::NAN;
    analysis.spectra[1].singular_values[0] = f64::NAN;
    analysis.load[0].entropy = f64::NEG_INFINITY;
    analysis.gates[0].null = f64::NAN;
    let (dir, page) = report(&[&analysis]);
    let mut texts = vec![markup(&page), terminal_table(&analysis)];
    texts.extend(files(&dir.path().join("figures")).into_values().map(|f| String::from_utf8(f).unwrap()));
    for text in &texts {
        for word in ["NaN", "inf", "null", "None", "undefined"] {
            let found = text.match_indices(word).filter(|(at, _)| {
                let beside = [text[..*at].chars().next_back(), text[at + word.len()..].chars().next()];
                !beside.iter().flatten().any(|c| c.is_alphabetic() || *c == '_')
            });
            // Prose may speak of the null; a number may not be one.
            let found = found.filter(|(at, _)| {
                word != "null"
                    || text[..*at].ends_with(['"', '>', ',', ' ']) && text[at + 4..].starts_with(['"', '<', ','])
            });
            assert!(word == "undefined" || found.count() == 0, "{word} in {}", &text[..200.min(text.len())]);
        }
    }
    let (text, cells) = (&texts[0], data(&page));
    assert!(text.contains("class=\"undefined\"") && text.contains(">undefined<"));
    // The last of the 4096 levels stands for undefined; row 3 of the gradients of layer 1 is all of it.
    let table = &cells["figures"]["gradients-similarity"]["panels"][0]["1|gate|model side|top 1\u{a0}%"];
    let packed = table["data"].as_str().unwrap();
    let cell = |i: usize, j: usize| (0..i).map(|i| 7 - i).sum::<usize>() + j - i - 1;
    let digits = |at: usize| &packed[2 * at..2 * at + 2];
    assert_eq!((digits(cell(0, 3)), digits(cell(3, 7))), ("__", "__"));
    assert_ne!(digits(cell(0, 1)), "__");
}

#[test]
fn cells_in_the_page_are_those_of_the_record() {
    let analysis = SMALL.analysis("small");
    let (_dir, page) = report(&[&analysis]);
    let figures = data(&page);
    let mut compared = 0;
    for row in analysis.similarity.iter().filter(|r| matches!(r.of, Of::Weights | Of::Unique)) {
        let side = if format!("{:?}", row.side) == "Model" { "model side" } else { "hidden side" };
        let part = if format!("{:?}", row.part) == "Top" { "top 1\u{a0}%" } else { "tail" };
        let key = format!("{}|{}|{side}|{part}", row.layer, row.matrix.name());
        let table = &figures["figures"]["similarity"]["panels"][usize::from(row.of == Of::Unique)][&key];
        let (lo, hi) = (table["lo"].as_f64().unwrap(), table["hi"].as_f64().unwrap());
        let packed: Vec<usize> = table["data"].as_str().unwrap().chars().map(|c| DIGITS.find(c).unwrap()).collect();
        let expected = row.pairs.iter().enumerate().flat_map(|(i, r)| r[i + 1..].iter().map(|x| x.unwrap()));
        assert_eq!(packed.len(), 8 * 7);
        for (x, digits) in expected.zip(packed.chunks(2)) {
            let value = lo + (hi - lo) * (64 * digits[0] + digits[1]) as f64 / 4094.0;
            assert!((value - x).abs() <= 0.5001 * (hi - lo) / 4094.0, "{key}: {value} for {x}");
            compared += 1;
        }
    }
    assert_eq!(compared, 3 * 3 * 2 * 2 * 2 * 28);
}

#[test]
fn text_from_files_is_escaped_and_nothing_is_loaded() {
    let (a, b) = (BASELINE.analysis(HOSTILE), SMALL.analysis("small & <b>"));
    for analyses in [&[&a][..], &[&a, &b]] {
        let (dir, page) = report(analyses);
        for (path, content) in files(dir.path()) {
            let text = String::from_utf8(content).unwrap();
            let is_page = path.ends_with("report.html");
            assert_eq!(
                text.matches("<script").count(),
                if is_page {
                    2
                } else {
                    usize::from(path.extension().unwrap() == "json") * text.matches("<script").count()
                },
                "{path:?}"
            );
            assert!(!is_page || text.contains("&lt;script&gt;alert(&quot;1&quot; &amp;"), "{path:?}");
        }
        let text = markup(&page);
        let document = roxmltree::Document::parse(&text).unwrap();
        for node in document.descendants() {
            for attribute in node.attributes() {
                let (name, value) = (attribute.name(), attribute.value());
                assert!(!["src", "srcset", "data", "action", "poster"].contains(&name), "{name}={value}");
                assert!(!name.starts_with("on"), "{name}={value}");
                let citation = node.has_tag_name("a") && value.starts_with("https://arxiv.org/abs/");
                assert!(!name.contains("href") || value.starts_with('#') || citation, "{name}={value}");
            }
            assert!(!["link", "img", "iframe", "object", "base"].contains(&node.tag_name().name()));
        }
        let style: String =
            document.descendants().filter(|n| n.has_tag_name("style")).filter_map(|n| n.text()).collect();
        assert!(style.contains("@media print") && !style.contains("url(") && !style.contains("@import"));
        assert!(!page.contains("fetch(") && !page.contains("XMLHttpRequest"));
    }
}

#[test]
fn figures_are_well_formed_files_of_their_own() {
    let (a, b) = (BASELINE.analysis("baseline"), SMALL.analysis("sd"));
    let (dir, page) = report(&[&a, &b]);
    let figures = files(&dir.path().join("figures"));
    assert!(figures.len() >= 25, "{}", figures.len());
    for (path, content) in figures {
        let text = String::from_utf8(content).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let root = document.root_element();
        assert_eq!((root.tag_name().name(), root.tag_name().namespace()), ("svg", Some("http://www.w3.org/2000/svg")));
        assert!(page.contains(&format!("id=\"{}\"", path.file_stem().unwrap().to_str().unwrap())));
    }
}

#[test]
fn decoupled_experts_are_never_shown_without_both_figures() {
    let (a, b) = (BASELINE.analysis("baseline"), SMALL.analysis("sd"));
    let headline = |page: &str| {
        let start = page.find("<h1").unwrap();
        page[start..start + page[start..].find("<div class=\"verdict\">").unwrap()].to_owned()
    };
    let (_one, page) = report(&[&b]);
    assert!(
        headline(&page).contains("Merged experts share 0.6") && headline(&page).contains("their unique parts 0."),
        "{}",
        headline(&page)
    );
    let (_two, page) = report(&[&a, &b]);
    assert!(
        headline(&page).contains("baseline: Experts share 0.5")
            && headline(&page).contains("sd: Merged experts share 0.4"),
        "{}",
        headline(&page)
    );
    let cells = data(&page);
    for id in ["worst-layer", "similarity"] {
        assert_eq!(cells["figures"][id]["panels"].as_array().unwrap().len(), 3, "{id}");
    }
    // All panels that are compared have one scale.
    let scales: Vec<f64> = cells["figures"]["worst-layer"]["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p[""]["hi"].as_f64().unwrap())
        .collect();
    assert!(scales.iter().all(|s| *s == scales[0]), "{scales:?}");
    assert!(page.contains("The differences") && page.contains(">baseline<") && page.contains(">sd<"));
}

#[test]
fn a_similarity_that_is_chance_is_called_chance() {
    let mut analysis = LARGE.analysis("random");
    analysis.similarity.iter_mut().for_each(|r| r.mean_offdiag = Some(r.null * 1.01));
    let (_dir, page) = report(&[&analysis]);
    assert!(page.contains("on neither side does this stand out from what random matrices give"));
    assert!(!page.contains("(a little more than chance;") && !page.contains("(clearly more than chance;"));
    // Of decoupled experts that is said of the unique parts: the merged ones may well stand out.
    let mut decoupled = SMALL.analysis("decoupled");
    let unique = decoupled.similarity.iter_mut().filter(|r| r.of == Of::Unique);
    unique.for_each(|r| r.mean_offdiag = Some(r.null * 1.01));
    let (_dir, page) = report(&[&decoupled]);
    assert!(page.contains("on neither side do the unique parts stand out from what random matrices give"));
}

#[test]
fn every_number_has_what_it_must_be_compared_with_beside_it() {
    let (a, b) = (BASELINE.analysis("baseline"), SMALL.analysis("sd"));
    let (_dir, page) = report(&[&b]);
    let text = markup(&page);
    let tile = |what: &str| {
        let at = text.find(&format!("<dt>{what}")).unwrap_or_else(|| panic!("{what}"));
        text[at..at + text[at..].find("</div>").unwrap()].to_owned()
    };
    // Tokens of one layer are alike whoever gets them: chance says nothing.
    let routed = tile("Similarity of routed tokens");
    assert!(routed.contains("control 0.850 \u{b1} 0.03") && !routed.contains("chance"), "{routed}");
    assert!(tile("Similarity of merged experts").contains("<dd>\u{b1} 0."), "a spread over pairs");
    assert!(tile("Router specificity").contains("chance 1, control 1.01 \u{b1} 0.25"));
    // r = 2 of 128 x 256.
    assert!(text.contains("The top 1\u{a0}% are two directions (r = 2): 0.5 is one that two experts share"));
    assert!(text.contains("at 32 tokens of 3 sources, spread over positions 2 to 126 of windows of 128"));
    let large = markup(&report(&[&LARGE.analysis("large")]).1);
    assert!(!large.contains("(r = 2): 0.5") && !large.contains("(r = 1): 0.5"));
    let mut single = b.clone();
    single.similarity.iter_mut().for_each(|row| row.r = 1);
    assert!(markup(&report(&[&single]).1).contains("is a single direction (r = 1): 0.5 is an angle of 45\u{b0}"));
    // Side by side, the unique parts stand against what the other has: its whole experts.
    let both = markup(&report(&[&a, &b]).1);
    let at = both.find("Similarity of weights against W_u, top 1\u{a0}%, hidden side").unwrap();
    let row = &both[at..at + both[at..].find("</tr>").unwrap()];
    let cells: Vec<&str> = row.split("<td>").skip(1).map(|c| c.split("</td>").next().unwrap()).collect();
    let number = |cell: &str| cell.split(' ').next().unwrap().replace('\u{2212}', "-").parse::<f64>().unwrap();
    let [weights, unique, difference] = [0, 1, 2].map(|i| number(cells[i]));
    assert!((unique - weights - difference).abs() < 1.1e-3 && cells[0].contains('\u{b1}'), "{cells:?}");
    let swapped = markup(&report(&[&b, &a]).1);
    assert!(swapped.contains("Similarity of W_u against weights, top 1\u{a0}%, model side"));
}

#[test]
fn one_source_alone_gets_no_map_of_sources() {
    let mut analysis = SMALL.analysis("small");
    for load in &mut analysis.load {
        load.by_source = vec![load.share.iter().map(|x| Some(*x)).collect()];
        load.sources.truncate(1);
        (load.mutual_information, load.normalised_information) = (None, None);
        (load.null, load.control, load.control_spread) = (None, None, None);
    }
    let (_dir, page) = report(&[&analysis]);
    assert!(page.contains("id=\"load-share\"") && !page.contains("id=\"load-source\""));
    assert!(!page.contains("id=\"load-information\"") && !page.contains("information undefined"));
    let (_dir, page) = report(&[&SMALL.analysis("small")]);
    assert!(page.contains("id=\"load-source\"") && page.contains("id=\"load-information\""));
}

#[test]
fn tails_and_drift_are_drawn_as_what_they_are_beyond_chance() {
    let mut analysis = SMALL.analysis("small");
    for row in analysis.similarity.iter_mut().filter(|r| r.part == Part::Tail) {
        let beyond = |share: f64| Some(row.null + share * (1.0 - row.null));
        (row.mean_offdiag, row.control) = (beyond(0.02), beyond(0.0));
    }
    let (dir, _page) = report(&[&analysis]);
    let svg = |id: &str| fs::read_to_string(dir.path().join(format!("figures/{id}.svg"))).unwrap();
    let tail = svg("similarity-tail");
    assert!(tail.contains("(similarity \u{2212} chance) / (1 \u{2212} chance)") && tail.contains(">0.020<"), "{tail}");
    for id in ["drift", "training-drift"] {
        let drift = svg(id);
        assert!(drift.contains("share of W_u, less chance") && drift.contains("decoupled, model side"), "{id}");
    }
    assert!(svg("spectra").contains("data-label=\"control\""));
}

#[test]
fn a_large_model_gives_a_page_of_a_few_megabytes() {
    let analysis = LARGE.analysis("large");
    let (dir, page) = report(&[&analysis]);
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
    // Every table is there to choose: 24 layers, 3 matrices, 2 sides, 2 parts.
    assert_eq!(data(&page)["figures"]["similarity"]["panels"][0].as_object().unwrap().len(), 288);
    let figures: usize = files(&dir.path().join("figures")).values().map(Vec::len).sum();
    assert!(figures < 2 << 20, "{figures} bytes");
    // With more tables than a page has room for, it says what it left out.
    let deep = Plant { layers: 80, experts: 64, d: 256, f: 128, ..LARGE }.analysis("deep");
    let (_dir, page) = report(&[&deep]);
    assert!(page.len() < 6 << 20, "{} bytes", page.len());
    assert!(page.contains("tables, those least above chance, are in analysis.json only"));
}

/// Bytes of page and records, and of the figures.
fn sizes(dir: &Path) -> (usize, usize) {
    let all = files(dir);
    let of = |figures: bool| all.iter().filter(|f| f.0.starts_with("figures") == figures).map(|f| f.1.len()).sum();
    (of(false), of(true))
}

/// As DeepSeek-V3, weights alone.
const HUGE: Plant = Plant { layers: 58, experts: 256, d: 7168, f: 2048, spectral: false, data: false };

#[test]
fn a_report_does_not_grow_with_the_square_of_the_experts() {
    let huge = Plant { layers: 6, ..HUGE }.kept("huge", Detail::Top);
    let (dir, page) = report(&[&huge]);
    let (text, figures) = sizes(dir.path());
    println!("{text} bytes, of which the page {}, and figures of {figures}", page.len());
    assert!(text < 3 << 20 && page.len() < 1 << 20 && figures < 1 << 20, "{text}, {}, {figures} bytes", page.len());
    let words = markup(&page);
    for part in ["mean of blocks", "largest of blocks", "The most alike pairs", "8 by 8 experts", "expert, 8 a cell"] {
        assert!(words.contains(part), "{part}");
    }
    // Twice the experts: as many blocks, and rows for each expert.
    let more = Plant { layers: 6, experts: 512, ..HUGE }.kept("more", Detail::Top);
    let (other, _) = report(&[&more]);
    assert!(sizes(other.path()).0 < 2 * text, "{} for {text}", sizes(other.path()).0);
    // What has no pairs has no maps, and is a page still.
    let none = Plant { layers: 6, ..HUGE }.kept("none", Detail::None);
    let (_dir, page) = report(&[&none]);
    assert!(!page.contains("id=\"worst-layer\"") && page.contains("id=\"trend\""));
    roxmltree::Document::parse(&markup(&page)).unwrap();
}

#[test]
fn a_report_of_58_layers_of_256_experts_stays_below_30_megabytes() {
    let (dir, page) = report(&[&HUGE.kept("huge", Detail::Top)]);
    let (text, figures) = sizes(dir.path());
    println!("{text} bytes, of which the page {}, and figures of {figures}", page.len());
    assert!(text + figures < 30_000_000 && page.len() < 5_000_000, "{text}, {}, {figures} bytes", page.len());
}

#[test]
fn a_page_shows_blocks_of_many_experts_whatever_the_record_keeps() {
    // With and without all pairs in the record: the same page.
    let many = Plant { experts: 72, layers: 2, ..SMALL };
    let (whole, reduced) = (many.analysis("many"), many.kept("many", Detail::Top));
    let ((_one, a), (_two, b)) = (report(&[&whole]), report(&[&reduced]));
    let (a, b) = (data(&a), data(&b));
    for id in ["similarity", "gates-cross", "jacobians-pairs", "pca-pairs"] {
        let panels = a["figures"][id]["panels"].as_array().unwrap();
        let tables: Vec<_> = panels.iter().flat_map(|p| p.as_object().unwrap()).collect();
        assert!(!tables.is_empty() && tables.iter().all(|(_, t)| t["rows"] == 24 && t["block"] == 3), "{id}");
        for (key, table) in tables {
            let i = panels.iter().position(|p| p.get(key) == Some(table)).unwrap();
            assert_eq!(table["data"], b["figures"][id]["panels"][i][key]["data"], "{id} {key}");
        }
    }
    // A block's largest is its largest pair, on the scale that the page gives.
    let row = whole.similarity.iter().find(|r| r.of == Of::Unique).unwrap();
    let pairs = || (0..3).flat_map(|i| (3..6).map(move |j| row.pairs[i][j].unwrap()));
    let key = format!("0|{}|model side|top 1\u{a0}%|largest of blocks", row.matrix.name());
    let table = &a["figures"]["similarity"]["panels"][1][&key];
    let digit = |i: usize| DIGITS.find(table["data"].as_str().unwrap().as_bytes()[i] as char).unwrap();
    let value = table["hi"].as_f64().unwrap() * (64 * digit(2) + digit(3)) as f64 / 4094.0;
    assert!((value - pairs().fold(0.0, f64::max)).abs() < 1e-3, "{value}");
    // Beside another with few experts both stand in one figure.
    let (_dir, page) = report(&[&SMALL.analysis("few"), &reduced]);
    let panels = data(&page)["figures"]["similarity"]["panels"].clone();
    for (panel, rows) in [(0, 8), (2, 24)] {
        for cells in ["mean of blocks", "largest of blocks"] {
            assert_eq!(panels[panel][format!("0|gate|model side|top 1\u{a0}%|{cells}")]["rows"], rows, "{cells}");
        }
    }
}

#[test]
fn the_same_record_gives_the_same_bytes_and_the_record_reads_back() {
    let (a, b) = (BASELINE.analysis("a"), SMALL.analysis("b"));
    let ((one, _), (two, _)) = (report(&[&a, &b]), report(&[&a, &b]));
    let written = files(one.path());
    assert_eq!(written, files(two.path()));
    for (name, analysis) in [("analysis-first.json", &a), ("analysis-second.json", &b)] {
        assert!(serde_json::from_slice::<Analysis>(&written[Path::new(name)]).unwrap() == *analysis, "{name}");
    }
}

#[test]
fn an_empty_record_is_a_page_too() {
    let (_dir, page) = report(&[&Analysis::default()]);
    assert!(page.contains("No similarity of experts is defined"));
    roxmltree::Document::parse(&markup(&page)).unwrap();
    let (_dir, page) = report(&[&Analysis::default(), &LARGE.analysis("large")]);
    assert!(page.contains("cannot be compared"));
    assert!(terminal_table(&Analysis::default()).contains("No similarity"));
}

#[test]
fn a_new_report_takes_the_place_of_the_old_one_and_leaves_others_files() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &SMALL.analysis("whole")).unwrap();
    let own = dir.path().join("figures/own.svg");
    fs::write(&own, "<svg xmlns=\"http://www.w3.org/2000/svg\"/>").unwrap();
    fs::write(dir.path().join("metrics.jsonl"), "{}").unwrap();
    assert!(dir.path().join("figures/drift.svg").exists());
    write(dir.path(), &BASELINE.analysis("other")).unwrap();
    assert!(!dir.path().join("figures/drift.svg").exists());
    assert!(own.exists() && dir.path().join("metrics.jsonl").exists());
    assert!(files(dir.path()).keys().all(|p| !p.to_str().unwrap().contains("tmp")));
}

#[test]
fn a_report_that_was_interrupted_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &SMALL.analysis("whole")).unwrap();
    // Killed before the page was in its place, or before anything was.
    fs::create_dir(dir.path().join(".report.tmp")).unwrap();
    fs::rename(dir.path().join("report.html"), dir.path().join(".report.tmp/29")).unwrap();
    fs::remove_file(dir.path().join("analysis.json")).unwrap();
    write(dir.path(), &SMALL.analysis("whole")).unwrap();
    let early = tempfile::tempdir().unwrap();
    fs::create_dir(early.path().join(".report.tmp")).unwrap();
    fs::write(early.path().join(".report.tmp/0"), "<svg").unwrap();
    write(early.path(), &SMALL.analysis("whole")).unwrap();
    assert!(files(early.path()).keys().all(|p| !p.to_str().unwrap().contains("tmp")));
    // What others keep there is not for this program to remove.
    fs::create_dir(early.path().join(".report.tmp")).unwrap();
    fs::write(early.path().join(".report.tmp/mine"), "").unwrap();
    assert!(matches!(write(early.path(), &SMALL.analysis("whole")), Err(Error::Checkpoint { .. })));
}

#[test]
fn a_report_that_cannot_be_written_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Others' files, or a folder, where the page, the record or a figure should be.
    for (taken, report) in [("report.html/x", false), ("analysis.json", false), ("figures/drift.svg", true)] {
        if report {
            write(dir.path(), &BASELINE.analysis("old")).unwrap();
        }
        let taken = dir.path().join(taken);
        fs::create_dir_all(taken.parent().unwrap()).unwrap();
        fs::write(&taken, "old").unwrap();
        let before = files(dir.path());
        assert!(matches!(write(dir.path(), &SMALL.analysis("small")), Err(Error::Checkpoint { .. })), "{taken:?}");
        assert_eq!(files(dir.path()), before);
        fs::remove_dir_all(dir.path()).unwrap();
        fs::create_dir(dir.path()).unwrap();
    }
    // A file where the folder should be.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(write(&file, &SMALL.analysis("small")), Err(Error::Io { .. })));
    assert_eq!(fs::read(&file).unwrap(), b"");
    // A folder that only the report needs is not left behind.
    let missing = file.join("deeper");
    assert!(write(&missing, &SMALL.analysis("small")).is_err() && !missing.exists());
}

#[test]
fn the_terminal_gets_a_table_of_eighty_columns() {
    for analysis in [SMALL.analysis("small"), LARGE.analysis("large")] {
        let text = terminal_table(&analysis);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("subspace on the") && lines[0].contains("chance is 0.0"), "{text}");
        assert!(lines[1..].iter().all(|l| l.chars().count() <= 80), "{text}");
        for word in ["gate, model side", "down, hidden side", "chance", "control", "worst"] {
            assert!(text.contains(word), "{word} in\n{text}");
        }
        assert_eq!(text.contains("unique W_u"), analysis.target.spectral);
    }
}

#[test]
fn warnings_of_a_run_stand_first_on_the_page_and_by_name_on_one_of_two() {
    let (a, b) = (SMALL.analysis("one"), BASELINE.analysis("two"));
    let (_dir, page) = report(&[&a]);
    let warning = "step 50: 3 of the 32 experts got no token &lt;b&gt;at all&lt;/b&gt;";
    assert!(page.contains(&format!("<li>{warning}</li>")));
    assert!(page.find("id=\"warnings\"").unwrap() < page.find("class=\"figures\"").unwrap());
    let (_dir, page) = report(&[&a, &b]);
    assert!(page.contains(&format!("<li>one: {warning}</li>")));
    let mut quiet = a.clone();
    quiet.training.as_mut().unwrap().warnings.clear();
    assert!(!report(&[&quiet]).1.contains("id=\"warnings\""));
}

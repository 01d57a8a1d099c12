//! The page: complete, escaped, and every number as in the record.

use super::{DIGITS, data, files, markup, report};
use crate::common::plant::{BASELINE, HOSTILE, LARGE, SMALL};
use sdmoe::analysis::record::{KeptPairs, Of};
use sdmoe::report::terminal_table;

const SECTIONS: [&str; 12] = [
    "weights",
    "spectra",
    "gradients",
    "gates",
    "activations",
    "jacobians",
    "routed-pca",
    "load",
    "outputs",
    "pruning",
    "decoupling",
    "training",
];

#[test]
fn every_section_is_there_and_the_missing_ones_say_what_gives_them() {
    let whole = SMALL.analysis("small");
    let weights = LARGE.analysis("large");
    for (analysis, missing) in [
        (&whole, &[][..]),
        (
            &weights,
            &[
                "gradients",
                "activations",
                "jacobians",
                "routed-pca",
                "load",
                "outputs",
                "pruning",
                "decoupling",
                "training",
            ],
        ),
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

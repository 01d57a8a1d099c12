//! The words of the page and of the terminal: what is said of the figures.

use std::fs;

use super::{data, markup, report};
use crate::common::plant::{BASELINE, LARGE, SMALL};
use sdmoe::analysis::record::{Of, Part};
use sdmoe::report::terminal_table;

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

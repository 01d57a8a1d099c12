//! The size of page and record, whatever the number of experts.

use std::path::Path;

use super::{DIGITS, data, files, markup, report};
use crate::common::plant::{LARGE, Plant, SMALL};
use sdmoe::analysis::pairs::Detail;
use sdmoe::analysis::record::Of;

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

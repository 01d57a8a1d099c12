//! The program without a window: it trains, draws, and keeps its figures.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

/// Colours of the pixels of a PNG file of width 640 and height 400.
fn colours(path: &Path) -> HashSet<[u8; 3]> {
    let file = std::fs::File::open(path).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (640, 400, png::ColorType::Rgb));
    bytes.chunks_exact(3).map(|rgb| [rgb[0], rgb[1], rgb[2]]).collect()
}

#[test]
fn a_film_has_frames_with_charts_and_a_table_of_all_steps() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("film");
    let _ = std::fs::remove_dir_all(&folder);
    let output = Command::new(env!("CARGO_BIN_EXE_sdmoe-live"))
        .args(["--headless", "--steps", "9", "--every", "4", "--size", "640x400", "--frames"])
        .arg(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // A frame is drawn when the step is seen: how many are depends on how fast they go, but the last always is.
    let mut frames: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    frames.retain(|path| path.extension().is_some_and(|e| e == "png"));
    assert!(frames.contains(&folder.join("000009.png")), "{frames:?}");
    for frame in &frames {
        // Text that is smoothed at its edges has many shades.
        let colours = colours(frame);
        assert!(colours.len() > 50, "{}: {} colours", frame.display(), colours.len());
    }

    let table = std::fs::read_to_string(folder.join("figures.csv")).unwrap();
    for column in 1..=2 {
        let cell = |line: &str| line.split(',').nth(column).unwrap().parse().unwrap();
        let losses: Vec<f32> = table.lines().skip(1).map(cell).collect();
        // ln 256 is the loss of bytes drawn at random.
        assert!(losses.len() == 9 && (losses[0] - 256f32.ln()).abs() < 0.5, "{table}");
        assert!(losses[8] < losses[0] - 0.1, "{table}");
    }
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_sdmoe-live")).args(["--settings", "no such file"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.lines().count() == 1 && said.contains("no such file"), "{said}");
}

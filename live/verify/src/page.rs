//! The page: elements by their id in `live/web/verify.html`, and the title, which says how far it is.

use std::cell::Cell;

use sdmoe::verify::{Event, Host, Outcome, Report, markdown, run_without_threads, told};
use web_sys::{Document, Window};

use crate::settings;

/// Starts the page.
pub fn main() {
    // A program that panics in a browser is at its end, and its page says so.
    std::panic::set_hook(Box::new(|panic| stopped(&panic.to_string())));
    let _ = console_log::init_with_level(log::Level::Warn);
    wasm_bindgen_futures::spawn_local(async {
        if let Err(message) = verify().await {
            stopped(&message);
        }
    });
}

fn window() -> Option<Window> {
    web_sys::window()
}

fn document() -> Option<Document> {
    window()?.document()
}

/// Puts `text` into the element of this id.
fn show(id: &str, text: &str) {
    if let Some(element) = document().and_then(|document| document.get_element_by_id(id)) {
        element.set_text_content(Some(text));
    }
}

/// Adds `text` at the end of the element of this id.
fn append(id: &str, text: &str) {
    if let Some(element) = document().and_then(|document| document.get_element_by_id(id)) {
        let _ = element.append_with_str_1(text);
    }
}

fn title(text: &str) {
    if let Some(document) = document() {
        document.set_title(&format!("verify: {text}"));
    }
}

/// Says that the page cannot go on.
fn stopped(message: &str) {
    show("progress", &format!("Stopped: {message}"));
    title("stopped");
}

/// The adapter as the browser names it to the page.
fn adapter_name() -> Option<String> {
    document()?.get_element_by_id("header")?.get_attribute("data-adapter")
}

/// The program and the browser.
fn host() -> Host {
    let mut host = Host::new();
    if let Some(agent) = window().and_then(|window| window.navigator().user_agent().ok()) {
        host.os = agent;
    }
    host
}

async fn verify() -> Result<(), String> {
    let search = window().and_then(|window| window.location().search().ok()).unwrap_or_default();
    let mut options = settings::options(&search)?;
    options.adapter_name = adapter_name();
    let host = host();
    let (done, all) = (Cell::new(0), Cell::new(0));
    let mut on = |event: Event<'_>| {
        match event {
            Event::Planned(cases) => all.set(cases),
            Event::Case(case) => {
                done.set(done.get() + 1);
                show("progress", &format!("{} of {}: {} ({})", done.get(), all.get(), case.name, case.variant));
                title(&format!("{} of {}", done.get(), all.get()));
            }
            _ => {}
        }
        let place = if matches!(event, Event::Adapter(_)) { "header" } else { "lines" };
        append(place, &told(&event, &host));
    };
    let mut report = run_without_threads(&options, &mut on).await.map_err(|error| error.to_string())?;
    report.host = host;
    finished(&report);
    Ok(())
}

/// Shows the whole report.
fn finished(report: &Report) {
    show("progress", &report.summary());
    show("report", &markdown(report));
    if let Some(element) = document().and_then(|document| document.get_element_by_id("end")) {
        let _ = element.remove_attribute("hidden");
    }
    let count = |is: fn(&Outcome) -> bool| {
        report.adapters.iter().flat_map(|adapter| &adapter.cases).filter(|case| is(&case.outcome)).count()
    };
    let passed = count(|outcome| matches!(outcome, Outcome::Passed));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed { .. }));
    title(&format!("{passed} passed, {failed} failed"));
}

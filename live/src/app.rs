//! The window's content: bars above and below, and the charts in as many columns as there is room for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use eframe::egui::{
    self, CentralPanel, ComboBox, Context, DragValue, Key, Panel, RichText, ScrollArea, Slider, Ui, UiBuilder, UiKind,
    UiStackInfo,
};
use sdmoe::Gpu;

use crate::session::trial::Expert;
use crate::session::{Command, Handle, Looks, State, Status};
use crate::settings::{Settings, Size, Variant};
use crate::texts::{SHORTEST, Source};
use crate::view::{self, Choice, Scene};
use crate::{colour, export, platform};

/// Points of width from which there are two columns, and three.
const TWO: f32 = 640.0;
const THREE: f32 = 1000.0;

/// Name and content of a file.
type Dropped = (String, Result<Vec<u8>, String>);

/// A running demonstration with its window's choices.
pub struct Live {
    handle: Handle,
    adapter: String,
    sources: Vec<Source>,
    /// Files that were dropped, on their way.
    files: (Sender<Dropped>, Receiver<Dropped>),
    choice: Choice,
    /// The step whose look is shown; none for the newest.
    shown: Option<u64>,
    /// The settings of the next start.
    next: Settings,
    balance: f32,
    share: f32,
    open: bool,
    message: String,
    /// Whether an image of the window is wanted.
    photograph: bool,
}

impl Live {
    /// The window's content for a session on `gpu`.
    pub fn new(gpu: &Gpu, handle: Handle, settings: &Settings, sources: Vec<Source>) -> Self {
        Self {
            adapter: adapter(gpu),
            handle,
            sources,
            files: channel(),
            choice: Choice::default(),
            shown: None,
            next: settings.clone(),
            balance: settings.balance_loss,
            share: 1.0,
            open: false,
            message: String::new(),
            photograph: false,
        }
    }

    /// The session goes on on `gpu`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn moved_to(&mut self, gpu: &Gpu) {
        self.adapter = adapter(gpu);
    }

    /// Ends the session.
    pub fn stop(&self) {
        self.handle.send(Command::Stop);
    }

    /// The findings of the session.
    pub fn session(&self) -> &Handle {
        &self.handle
    }

    /// Returns in one line how far the session is.
    pub fn title(&self) -> String {
        let state = self.handle.state.lock();
        let [on, off] = &state.losses;
        // The models take their steps in turn: of the last one that both have taken.
        match on.iter().zip(off).enumerate().next_back() {
            Some((last, (on, off))) => format!("sdmoe live: step {}, loss {on:.4} and {off:.4}", last + 1),
            None => "sdmoe live".to_owned(),
        }
    }

    /// Draws everything.
    pub fn ui(&mut self, ui: &mut Ui) {
        self.keys(ui.ctx());
        self.dropped(ui.ctx());
        let state = self.handle.state.clone();
        // The session waits for this lock only between steps, and drawing takes no longer than a frame.
        let state = state.lock();
        let state = &*state;
        Panel::top("status").show(ui, |ui| self.status(ui, state));
        Panel::bottom("time").show(ui, |ui| self.time(ui, state));
        let looks = self.looks(state);
        // Its colour is that of the cleared frame: one layer of pixels less to draw.
        let frame = egui::Frame::central_panel(ui.style()).fill(egui::Color32::TRANSPARENT);
        // Told, not drawn: what is scrolled fades into it.
        let background =
            UiStackInfo::new(UiKind::CentralPanel).with_frame(egui::Frame::new().fill(ui.visuals().panel_fill));
        CentralPanel::default().frame(frame).show(ui, |ui| {
            ui.scope_builder(UiBuilder::new().ui_stack_info(background), |ui| {
                ScrollArea::vertical().auto_shrink(false).show(ui, |ui| self.charts(ui, state, looks.as_deref()));
            });
        });
        if self.open {
            self.settings(ui.ctx());
        }
        if std::mem::take(&mut self.photograph) {
            export::photograph(ui.ctx(), format!("sdmoe-live-{}.png", state.losses[0].len()));
        }
    }

    fn looks(&self, state: &State) -> Option<Arc<Looks>> {
        state.looks.get(self.position(state)?).cloned()
    }

    /// The look that is shown: that of the chosen step or, where it is no longer kept, the one before it.
    fn position(&self, state: &State) -> Option<usize> {
        let last = state.looks.len().checked_sub(1)?;
        let Some(shown) = self.shown else { return Some(last) };
        Some(state.looks.partition_point(|looks| looks.step <= shown).saturating_sub(1))
    }

    fn keys(&mut self, ctx: &Context) {
        if ctx.memory(|m| m.focused().is_some()) {
            return;
        }
        if ctx.input(|i| i.key_pressed(Key::Space)) {
            self.toggle_pause();
        }
    }

    fn toggle_pause(&self) {
        let paused = self.handle.state.lock().status == Status::Paused;
        self.handle.send(Command::Pause(!paused));
    }

    /// A file that is dropped on the window becomes a text of its own.
    fn dropped(&mut self, ctx: &Context) {
        for file in ctx.input(|i| i.raw.dropped_files.clone()) {
            let (give, ctx) = (self.files.0.clone(), ctx.clone());
            platform::read(file, move |name, content| {
                let _ = give.send((name, content));
                ctx.request_repaint();
            });
        }
        while let Ok((name, content)) = self.files.1.try_recv() {
            match content.map(|bytes| Source::new(name.clone(), bytes)) {
                Ok(Some(source)) => {
                    self.sources.push(source);
                    // With what runs, not with what is being edited.
                    let running = self.handle.state.lock().settings.clone();
                    let edited = std::mem::replace(&mut self.next, running);
                    self.restart();
                    self.next = edited;
                }
                Ok(None) => self.message = format!("{name}: expected at least {SHORTEST} bytes"),
                Err(error) => self.message = format!("{name}: {error}"),
            }
        }
    }

    fn restart(&mut self) {
        match self.next.validate() {
            Ok(()) => {
                (self.shown, self.balance, self.message) = (None, self.next.balance_loss, String::new());
                (self.choice.layer, self.choice.expert) = (0, 0);
                self.handle.send(Command::Restart(self.next.clone(), self.sources.clone()));
                platform::show_link(&self.next.to_link());
            }
            Err(message) => self.message = message,
        }
    }

    fn status(&mut self, ui: &mut Ui, state: &State) {
        ui.add_space(3.0);
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new("sdmoe live").strong());
            ui.separator();
            let paused = state.status == Status::Paused;
            if ui.button(if paused { "go on" } else { "pause" }).on_hover_text("space").clicked() {
                self.handle.send(Command::Pause(!paused));
            }
            if ui.add_enabled(paused, egui::Button::new("one step")).clicked() {
                self.handle.send(Command::Step);
            }
            if ui.button("settings").clicked() {
                self.open = !self.open;
            }
            if ui.button("image").on_hover_text("the window as PNG").clicked() {
                self.photograph = true;
            }
            if ui.button("figures").on_hover_text("losses, similarity and dead experts by step, as CSV").clicked() {
                self.message = platform::save("sdmoe-live.csv", export::csv(state).as_bytes());
            }
            ui.separator();
            let layers = state.settings.run(true).model.layers;
            ui.label("layer");
            ui.add(Slider::new(&mut self.choice.layer, 0..=layers.saturating_sub(1)));
            ui.selectable_value(&mut self.choice.decoupled, true, RichText::new("decoupled").color(colour::DECOUPLED));
            ui.selectable_value(&mut self.choice.decoupled, false, RichText::new("plain").color(colour::PLAIN));
            ui.separator();
            ui.label("share");
            let share = Slider::new(&mut self.share, 0.1..=1.0).custom_formatter(|x, _| format!("{:.0} %", 100.0 * x));
            if ui.add(share).on_hover_text("of the time that training takes").changed() {
                self.handle.send(Command::Share(self.share));
            }
            ui.separator();
            let step = state.losses[0].len();
            let says = match &state.status {
                Status::Compiling(0, _) => "compiling kernels".to_owned(),
                Status::Compiling(done, of) => format!("compiling kernels: {done} of {of}"),
                Status::Running | Status::Paused => {
                    format!("step {step}, {:.0} tokens/s, {:.0} % busy", state.tokens_per_second, 100.0 * state.busy)
                }
                Status::Lost => "the GPU device is lost: another is being opened".to_owned(),
                Status::Failed(message) => format!("stopped: {message}"),
            };
            let failed = matches!(state.status, Status::Failed(_));
            ui.label(if failed { RichText::new(says).color(colour::CHANCE) } else { RichText::new(says) });
            ui.label(RichText::new(&self.adapter).weak());
            if !state.notice.is_empty() {
                ui.label(RichText::new(&state.notice).color(colour::CHANCE));
            }
            if !self.message.is_empty() {
                ui.label(RichText::new(&self.message).color(colour::CHANCE));
            }
        });
        ui.add_space(2.0);
    }

    /// The slider through what was seen.
    fn time(&mut self, ui: &mut Ui, state: &State) {
        ui.add_space(3.0);
        ui.horizontal(|ui| {
            let Some(last) = state.looks.len().checked_sub(1) else {
                ui.label(RichText::new("the experts are looked at after the first steps").weak());
                return;
            };
            let mut at = self.position(state).unwrap_or(last);
            let step = |at: usize| state.looks.get(at).map(|looks| looks.step);
            ui.label("seen at step");
            ui.spacing_mut().slider_width = (ui.available_width() - 190.0).max(80.0);
            let slider = Slider::new(&mut at, 0..=last).custom_formatter(|i, _| {
                state.looks.get(i as usize).map_or(String::new(), |looks| looks.step.to_string())
            });
            if ui.add(slider).changed() {
                self.shown = step(at);
            }
            let mut newest = self.shown.is_none();
            if ui.toggle_value(&mut newest, "newest").clicked() {
                self.shown = if newest { None } else { step(at) };
            }
        });
        ui.add_space(2.0);
    }

    fn charts(&mut self, ui: &mut Ui, state: &State, looks: Option<&Looks>) {
        let scene = Scene { state, looks };
        let layers = state.settings.run(true).model.layers;
        self.choice.layer = self.choice.layer.min(layers.saturating_sub(1));
        self.choice.expert = self.choice.expert.min(state.settings.experts.saturating_sub(1));
        let width = ui.available_width();
        let columns = if width >= THREE {
            3
        } else if width >= TWO {
            2
        } else {
            1
        };
        let mut wanted = None;
        let mut moved = None;
        ui.columns(columns, |columns| {
            // What stands in which of so many columns, from the left.
            let place: [usize; 8] = match columns.len() {
                3 => [0, 0, 2, 1, 1, 2, 2, 2],
                2 => [0, 0, 0, 1, 1, 0, 1, 1],
                _ => [0; 8],
            };
            view::probe::draw(&mut columns[place[0]], &scene, &self.choice);
            view::losses::draw(&mut columns[place[1]], &scene);
            view::similarity::draw(&mut columns[place[3]], &scene, &mut self.choice);
            view::spectrum::draw(&mut columns[place[4]], &scene, &self.choice);
            moved = view::load::draw(&mut columns[place[5]], &scene, &self.choice, &mut self.balance);
            view::sources::draw(&mut columns[place[6]], &scene, &self.choice);
            wanted = view::experts::draw(&mut columns[place[7]], &scene, &mut self.choice);
            view::sample::draw(&mut columns[place[2]], &scene);
        });
        if let Some(weight) = moved {
            self.next.balance_loss = weight;
            self.handle.send(Command::Balance(weight));
        }
        if let Some(kind) = wanted {
            let Choice { decoupled, layer, expert, .. } = self.choice;
            let expert = Expert { layer, number: expert };
            self.handle.send(Command::Try(state.number, kind, decoupled, expert));
        }
    }

    fn settings(&mut self, ctx: &Context) {
        let mut open = self.open;
        egui::Window::new("settings").open(&mut open).resizable(false).show(ctx, |ui| {
            let next = &mut self.next;
            egui::Grid::new("settings").num_columns(2).show(ui, |ui| {
                ui.label("seed");
                ui.add(DragValue::new(&mut next.seed));
                ui.end_row();
                ui.label("size");
                ComboBox::from_id_salt("size").selected_text(size_name(next.size)).show_ui(ui, |ui| {
                    for size in [Size::Small, Size::Medium] {
                        ui.selectable_value(&mut next.size, size, size_name(size));
                    }
                });
                ui.end_row();
                ui.label("experts, of which a token visits");
                ui.horizontal(|ui| {
                    ui.add(DragValue::new(&mut next.experts).range(2..=32).clamp_existing_to_range(false));
                    ui.add(DragValue::new(&mut next.top_k).range(1..=8).clamp_existing_to_range(false));
                });
                ui.end_row();
                ui.label("rank of W_c");
                ui.add(DragValue::new(&mut next.rank).range(1..=32).clamp_existing_to_range(false));
                ui.end_row();
                ui.label("decoupling");
                ui.horizontal(|ui| {
                    ui.selectable_value(&mut next.variant, Variant::Absorb, "absorb");
                    ui.selectable_value(&mut next.variant, Variant::Published, "as published");
                });
                ui.end_row();
                ui.label("learning rate");
                ui.add(
                    DragValue::new(&mut next.lr)
                        .range(1e-5..=1e-1)
                        .clamp_existing_to_range(false)
                        .speed(1e-4)
                        .max_decimals(5),
                );
                ui.end_row();
            });
            ui.horizontal(|ui| {
                if ui.button("begin again").clicked() {
                    self.restart();
                }
                if ui.button("copy link").on_hover_text("what stands behind # of the page's address").clicked() {
                    ctx.copy_text(format!("#{}", self.next.to_link()));
                }
                if ui.button("save").on_hover_text("for --settings").clicked() {
                    let text = serde_json::to_string_pretty(&self.next).unwrap_or_default();
                    self.message = platform::save("sdmoe-live.json", text.as_bytes());
                }
            });
            ui.label(RichText::new("A file dropped on the window becomes one more text.").small().weak());
        });
        self.open = open;
    }
}

/// The adapter in a few words.
fn adapter(gpu: &Gpu) -> String {
    let adapter = gpu.adapter();
    let name = adapter.name.split(" (").next().unwrap_or_default();
    [name, &adapter.backend].join(" ").trim().to_owned()
}

fn size_name(size: Size) -> &'static str {
    match size {
        Size::Small => "2 layers, width 64",
        Size::Medium => "4 layers, width 128",
    }
}

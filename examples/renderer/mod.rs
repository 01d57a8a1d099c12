//! What an application draws: a triangle over the whole picture, into a texture instead of a window.

use std::time::{Duration, Instant};

use sdmoe::wgpu;

const SHADER: &str = "@vertex fn corner(@builtin(vertex_index) i: u32) -> @builtin(position) vec4f {
    return vec4f(f32(i & 1u) * 4.0 - 1.0, f32(i >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}
@fragment fn color(@builtin(position) at: vec4f) -> @location(0) vec4f { return vec4f(fract(at.xy / 64.0), 0.5, 1.0); }";
/// The time of a frame at 60 a second.
const FRAME: Duration = Duration::from_millis(16);

/// A pipeline and the picture it draws.
pub struct Renderer {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipeline: wgpu::RenderPipeline,
    view: wgpu::TextureView,
}

impl Renderer {
    /// A renderer of pictures of 640 x 360.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let source = wgpu::ShaderSource::Wgsl(SHADER.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let format = wgpu::TextureFormat::Rgba8Unorm;
        let options = wgpu::PipelineCompilationOptions::default();
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: None,
            layout: None,
            vertex: wgpu::VertexState {
                module: &module,
                entry_point: None,
                compilation_options: options.clone(),
                buffers: &[],
            },
            primitive: wgpu::PrimitiveState::default(),
            depth_stencil: None,
            multisample: wgpu::MultisampleState::default(),
            fragment: Some(wgpu::FragmentState {
                module: &module,
                entry_point: None,
                compilation_options: options,
                targets: &[Some(format.into())],
            }),
            multiview_mask: None,
            cache: None,
        });
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: None,
            size: wgpu::Extent3d { width: 640, height: 360, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
            view_formats: &[],
        });
        Self { device, queue, pipeline, view: texture.create_view(&Default::default()) }
    }

    /// Draws frames, one each 16 ms, and returns how long each took until it was there, the shortest first.
    pub fn draw(&self, frames: usize) -> Result<Vec<Duration>, wgpu::PollError> {
        let mut times = Vec::new();
        for _ in 0..frames {
            let began = Instant::now();
            let frame = self.submit();
            self.device.poll(wgpu::PollType::Wait { submission_index: Some(frame), timeout: None })?;
            times.push(began.elapsed());
            std::thread::sleep(FRAME.saturating_sub(began.elapsed()));
        }
        times.sort_unstable();
        Ok(times)
    }

    fn submit(&self) -> wgpu::SubmissionIndex {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let ops = wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::BLACK), store: wgpu::StoreOp::Store };
        let target = wgpu::RenderPassColorAttachment { view: &self.view, depth_slice: None, resolve_target: None, ops };
        let description = wgpu::RenderPassDescriptor { color_attachments: &[Some(target)], ..Default::default() };
        let mut pass = encoder.begin_render_pass(&description);
        pass.set_pipeline(&self.pipeline);
        pass.draw(0..3, 0..1);
        drop(pass);
        self.queue.submit([encoder.finish()])
    }
}

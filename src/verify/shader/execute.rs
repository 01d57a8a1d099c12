//! One run of a shader on a device.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_channel::oneshot;

use super::arrival::arrival;
use super::layout::Leaf;
use super::parse::{BufferKind, Prepared, Variable};
use super::{Buffers, Job, ShaderDevice};
use crate::error::{Error, Result};
use crate::gpu::unwound;

/// The word that fills the guards.
const GUARD: u32 = 0xa5a5_5a5a;
/// Bytes of a guard: the largest alignment of an offset that WebGPU allows, and some more.
const GUARD_BYTES: u64 = 1024;

/// The word that fills memory which a shader should write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Poison(u32);

impl Poison {
    pub const FIRST: Poison = Poison(0x7fc0_dead);
    pub const SECOND: Poison = Poison(0x7fd1_beef);

    /// The bytes of a scalar that has it.
    pub fn bytes(self, leaf: Leaf) -> Vec<u8> {
        let words = self.0.to_le_bytes().repeat(3);
        let start = (leaf.offset % 4) as usize;
        words[start..start + leaf.scalar.width as usize].to_vec()
    }
}

/// The results of one run.
pub(super) struct Given {
    pub buffers: Buffers,
    /// Descriptions of writes to a guard.
    pub guards: Vec<String>,
}

/// Runs a shader once.
pub(super) async fn execute(
    device: &ShaderDevice,
    job: &Job,
    prepared: &Prepared,
    poison: Poison,
    timeout: Option<Duration>,
) -> Result<Given> {
    match unwound(attempt(device, job, prepared, poison, timeout)).await {
        Ok(given) => given,
        // wgpu panics where it finds a device gone.
        Err(panic) => Err(Error::DeviceLost(format!("wgpu or the driver panicked: {panic}"))),
    }
}

async fn attempt(
    ShaderDevice { device, queue, .. }: &ShaderDevice,
    job: &Job,
    prepared: &Prepared,
    poison: Poison,
    timeout: Option<Duration>,
) -> Result<Given> {
    let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
    let scopes = filters.map(|filter| device.push_error_scope(filter));
    let pipeline = pipeline(device, job, prepared);
    let buffers: Vec<wgpu::Buffer> =
        prepared.variables.iter().map(|v| buffer(device, queue, v, job.inputs.get(&v.name), poison)).collect();
    let groups = bind_groups(device, job, prepared, &buffers, &pipeline.1);
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.0);
        let dynamic = job.dynamic.as_ref().and_then(|(name, step)| {
            prepared.variables.iter().find(|v| v.name == *name).map(|v| (v.group, *step, v.size / (*step).max(1)))
        });
        for part in 0..dynamic.map_or(1, |(_, _, count)| count) {
            for (number, group) in groups.iter().enumerate() {
                let offset =
                    dynamic.filter(|(own, ..)| *own as usize == number).map(|(_, step, _)| (part * step) as u32);
                pass.set_bind_group(number as u32, group, offset.as_slice());
            }
            let [x, y, z] = job.groups;
            pass.dispatch_workgroups(x, y, z);
        }
    }
    let mut staging = Vec::new();
    for (variable, source) in prepared.variables.iter().zip(&buffers) {
        if variable.kind == BufferKind::Write {
            let target = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(&variable.name),
                size: source.size(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            encoder.copy_buffer_to_buffer(source, 0, &target, 0, source.size());
            staging.push((variable, target));
        }
    }
    let submission = queue.submit([encoder.finish()]);
    let mut mapped = Vec::new();
    for (_, target) in &staging {
        let (sender, receiver) = oneshot::channel();
        target.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
        mapped.push(receiver);
    }
    let arrived = arrival(device, job, submission, mapped, timeout).await;
    let mut refused = None;
    for scope in scopes.into_iter().rev() {
        refused = scope.pop().await.or(refused);
    }
    match refused {
        Some(wgpu::Error::OutOfMemory { .. }) => {
            return Err(Error::OutOfMemory { message: format!("{}: out of memory", job.name), source: None });
        }
        Some(error) => {
            let text = error.to_string();
            return Err(
                job.fail(format!("refused by the device: {}", text.split_whitespace().collect::<Vec<_>>().join(" ")))
            );
        }
        None => {}
    }
    arrived?;
    let mut given = Given { buffers: BTreeMap::new(), guards: Vec::new() };
    for (variable, target) in staging {
        let view = target.get_mapped_range(..).map_err(|e| Error::Device(format!("{}: {e}", job.name)))?;
        let (start, end) = (GUARD_BYTES as usize, (GUARD_BYTES + variable.size) as usize);
        let guard = GUARD.to_le_bytes();
        let intact = |bytes: &[u8]| bytes.chunks(4).all(|word| word == guard);
        for (where_, bytes) in [("before", &view[..start]), ("behind", &view[end..])] {
            if !intact(bytes) {
                given.guards.push(format!("`{}`: memory {where_} the buffer was written", variable.name));
            }
        }
        given.buffers.insert(variable.name.clone(), view[start..end].to_vec());
    }
    Ok(given)
}

/// A buffer with a variable's content between guards.
fn buffer(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    variable: &Variable,
    content: Option<&Vec<u8>>,
    poison: Poison,
) -> wgpu::Buffer {
    let guard = GUARD.to_le_bytes().repeat(GUARD_BYTES as usize / 4);
    let poisoned = || poison.0.to_le_bytes().repeat(variable.size as usize / 4);
    let bytes = [guard.clone(), content.cloned().unwrap_or_else(poisoned), guard].concat();
    let usage = match variable.kind {
        BufferKind::Uniform => wgpu::BufferUsages::UNIFORM,
        BufferKind::Read | BufferKind::Write => wgpu::BufferUsages::STORAGE,
    };
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(&variable.name),
        size: bytes.len() as u64,
        usage: usage | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    queue.write_buffer(&buffer, 0, &bytes);
    buffer
}

/// The number of bind groups.
fn group_count(prepared: &Prepared) -> u32 {
    prepared.variables.iter().map(|v| v.group + 1).max().unwrap_or(0)
}

/// The pipeline, and the layouts of its bind groups.
fn pipeline(
    device: &wgpu::Device,
    job: &Job,
    prepared: &Prepared,
) -> (wgpu::ComputePipeline, Vec<wgpu::BindGroupLayout>) {
    let label = Some(job.name.as_str());
    let source = wgpu::ShaderSource::Wgsl(job.wgsl.as_str().into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
    let entry = |v: &Variable| wgpu::BindGroupLayoutEntry {
        binding: v.binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match v.kind {
                BufferKind::Uniform => wgpu::BufferBindingType::Uniform,
                BufferKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
                BufferKind::Write => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: job.dynamic.as_ref().is_some_and(|(name, _)| *name == v.name),
            min_binding_size: None,
        },
        count: None,
    };
    let layouts: Vec<wgpu::BindGroupLayout> = (0..group_count(prepared))
        .map(|group| {
            let entries: Vec<_> = prepared.variables.iter().filter(|v| v.group == group).map(entry).collect();
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries })
        })
        .collect();
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &layouts.iter().map(Some).collect::<Vec<_>>(),
        immediate_size: 0,
    });
    let constants: Vec<(&str, f64)> = job.constants.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&layout),
        module: &module,
        entry_point: Some(&job.entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            zero_initialize_workgroup_memory: job.zero_workgroup_memory,
        },
        cache: None,
    });
    (pipeline, layouts)
}

fn bind_groups(
    device: &wgpu::Device,
    job: &Job,
    prepared: &Prepared,
    buffers: &[wgpu::Buffer],
    layouts: &[wgpu::BindGroupLayout],
) -> Vec<wgpu::BindGroup> {
    let bound = |v: &Variable| match &job.dynamic {
        Some((name, step)) if *name == v.name => *step,
        _ => v.size,
    };
    let group = |(number, layout): (usize, &wgpu::BindGroupLayout)| {
        let own = prepared.variables.iter().zip(buffers).filter(|(v, _)| v.group as usize == number);
        let entry = |(v, buffer): (&Variable, &'_ wgpu::Buffer)| (v.binding, buffer.clone(), bound(v));
        let own: Vec<_> = own.map(entry).collect();
        let entries: Vec<_> = own
            .iter()
            .map(|(binding, buffer, size)| wgpu::BindGroupEntry {
                binding: *binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: GUARD_BYTES,
                    size: wgpu::BufferSize::new(*size),
                }),
            })
            .collect();
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(&job.name), layout, entries: &entries })
    };
    layouts.iter().enumerate().map(group).collect()
}

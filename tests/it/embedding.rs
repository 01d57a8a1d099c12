//! What a program relies on that trains beside other work: handles that threads share, memory that comes back, runs that do
//! not disturb each other, and a state that outlives its device.

use crate::common::training::{config, micro_batches, snapshot, train, trainer};
use crate::common::{lent_gpu as gpu, own_gpu};
use pollster::block_on;
use sdmoe::gpu::{GpuOptions, MissingPart, OPTIONAL_FEATURES, device_descriptor};
use sdmoe::train::config::RunConfig;
use sdmoe::{Error, Gpu, Model, Snapshot, Tensor, Trainer, wgpu};

fn adapter() -> wgpu::Adapter {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    block_on(instance.enumerate_adapters(wgpu::Backends::all())).swap_remove(gpu().adapter().index)
}

fn opened(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Result<Gpu, Error> {
    let (device, queue) = block_on(adapter.request_device(descriptor)).unwrap();
    Gpu::from_device(device, queue, &GpuOptions::default())
}

#[test]
fn handles_can_be_shared_and_a_trainer_can_move_to_a_thread() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<Gpu>();
    shared::<Tensor>();
    shared::<Snapshot>();
    shared::<Error>();
    moved::<Trainer>();
    moved::<Model>();
}

#[test]
fn two_trainers_on_one_device_compute_what_each_computes_alone() {
    let gpu = gpu();
    let mut other = config();
    other.seed = 7;
    other.model.moe.experts = 4;
    let alone = |config: &RunConfig| {
        let mut trainer = trainer(&gpu, config);
        train(&mut trainer, 4);
        snapshot(&trainer)
    };
    let wanted = [alone(&config()), alone(&other)];
    let mut both = [trainer(&gpu, &config()), trainer(&gpu, &other)];
    for step in 1..=4 {
        for trainer in &mut both {
            let batches = micro_batches(trainer.config(), step);
            trainer.step(&batches).unwrap();
        }
    }
    assert!(both.iter().zip(&wanted).all(|(trainer, wanted)| snapshot(trainer) == *wanted));
}

#[test]
fn fifty_trainers_leave_no_memory_behind() {
    let gpu = gpu();
    let one = || drop(train(&mut trainer(&gpu, &config()), 1));
    let bytes = || {
        gpu.trim().unwrap();
        gpu.counters().bytes_allocated
    };
    let before = bytes();
    one();
    assert!(gpu.counters().bytes_allocated > before);
    assert_eq!(bytes(), before);
    (0..50).for_each(|_| one());
    assert_eq!(bytes(), before);
    assert_eq!(gpu.counters().pooled_bytes, 0);
}

#[test]
fn a_snapshot_goes_on_bit_for_bit_when_its_device_is_gone() {
    for decoupled in [true, false] {
        let mut config = config();
        config.spectral.enabled = decoupled;
        config.spectral.refresh_every = 3;
        config.model.moe.balance_bias = 0.01;
        let gpu = gpu();
        let mut whole = trainer(&gpu, &config);
        train(&mut whole, 8);

        let lost = own_gpu();
        let mut first = trainer(&lost, &config);
        train(&mut first, 4);
        let kept = block_on(first.snapshot()).unwrap();
        lost.device().destroy();
        assert!(matches!(first.step(&micro_batches(&config, 5)), Err(Error::DeviceLost(_))));
        assert!(block_on(first.snapshot()).is_err());

        let text = serde_json::to_string(&kept).unwrap();
        let kept: Snapshot = serde_json::from_str(&text).unwrap();
        let mut second = Trainer::from_snapshot(&gpu, &kept).unwrap();
        assert_eq!(second.step_number(), 4);
        train(&mut second, 4);
        assert!(snapshot(&second) == snapshot(&whole), "decoupled: {decoupled}");
    }
}

#[test]
fn a_snapshot_that_lacks_a_tensor_is_refused_by_its_name() {
    let gpu = gpu();
    let mut kept = block_on(trainer(&gpu, &config()).snapshot()).unwrap();
    let gone = kept.parameters.remove(0);
    let error = Trainer::from_snapshot(&gpu, &kept).err().unwrap().to_string();
    assert!(error.contains(&format!("expected a tensor `{}`", gone.name)) && error.ends_with("found none"), "{error}");
}

#[test]
fn a_trainer_and_a_model_are_saved_to_a_folder_and_come_back() {
    let (gpu, folder) = (gpu(), tempfile::tempdir().unwrap());
    let (run, model) = (folder.path().join("run"), folder.path().join("model"));
    let mut whole = trainer(&gpu, &config());
    train(&mut whole, 2);
    block_on(whole.save(&run)).unwrap();
    block_on(whole.model().save(&model)).unwrap();
    train(&mut whole, 2);
    let mut resumed = Trainer::resume(&gpu, &run).unwrap();
    train(&mut resumed, 2);
    assert!(snapshot(&resumed) == snapshot(&whole));
    let values = |model: &Model| {
        let read = |tensor: &Tensor| block_on(tensor.to_f32()).unwrap();
        model.params().iter().map(|p| (p.name.clone(), read(&p.value))).collect::<Vec<_>>()
    };
    let loaded = values(&Model::load(&gpu, &model).unwrap());
    assert_eq!(loaded, values(&Model::load(&gpu, &run).unwrap()));
    assert!(Trainer::resume(&gpu, &model).is_err(), "a model has no state of an optimizer");
}

#[test]
fn a_device_gets_what_both_can_use_and_one_with_less_says_what_that_costs() {
    let adapter = adapter();
    let host = wgpu::DeviceDescriptor {
        required_limits: wgpu::Limits { max_texture_dimension_2d: 4096, ..wgpu::Limits::default() },
        ..Default::default()
    };
    let merged = device_descriptor(&adapter, host.clone());
    assert_eq!(merged.required_features, adapter.features() & OPTIONAL_FEATURES);
    assert_eq!(merged.required_limits.max_texture_dimension_2d, 4096);
    assert_eq!(merged.required_limits.max_buffer_size, adapter.limits().max_buffer_size);
    assert_eq!(opened(&adapter, &merged).unwrap().missing(&adapter), []);

    let poor = opened(&adapter, &host).unwrap();
    let missing = poor.missing(&adapter);
    let features = missing.iter().filter_map(|missing| match missing.part {
        MissingPart::Feature(feature) => Some(feature),
        _ => None,
    });
    assert!(
        features.eq([
            wgpu::Features::SHADER_F16,
            wgpu::Features::TIMESTAMP_QUERY,
            wgpu::Features::SUBGROUP,
            wgpu::Features::SHADER_INT64
        ]
        .into_iter()
        .filter(|feature| adapter.features().contains(*feature)
            && (poor.adapter().is_software() || feature.bits() != wgpu::Features::SUBGROUP.bits())))
    );
    assert!(missing.iter().all(|missing| !missing.costs.is_empty()));
    // A device as egui asks for trains.
    let mut trainer = trainer(&poor, &config());
    assert_eq!(train(&mut trainer, 1).len(), 1);
    // With less there is one error, which names the limit.
    let downlevel =
        wgpu::DeviceDescriptor { required_limits: wgpu::Limits::downlevel_defaults(), ..Default::default() };
    let Err(Error::Limit { limit, least, has, .. }) = opened(&adapter, &downlevel) else { panic!("expected a limit") };
    assert_eq!((limit, least, has), ("max_storage_buffers_per_shader_stage", 8, 4));
    let merged = device_descriptor(&adapter, downlevel);
    assert!(opened(&adapter, &merged).is_ok());
}

#[test]
fn buffers_have_the_usages_that_were_asked_for_and_say_where_a_tensor_lies() {
    let adapter = adapter();
    let (device, queue) = block_on(adapter.request_device(&device_descriptor(&adapter, Default::default()))).unwrap();
    let options = GpuOptions::default().buffer_usages(wgpu::BufferUsages::VERTEX);
    let gpu = Gpu::from_device(device, queue, &options).unwrap();
    let tensor = Tensor::from_f32(&gpu, [4, 3], &[1.0; 12]).unwrap();
    let part = tensor.slice(1..3).unwrap();
    assert!(part.buffer().buffer.raw().usage().contains(wgpu::BufferUsages::VERTEX | wgpu::BufferUsages::STORAGE));
    assert_eq!((part.buffer().offset, part.buffer().size), (12, 24));
}

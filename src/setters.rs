//! The methods that set one option each, for the types of options that may get more fields between versions.

/// For each field a method of its name that sets it and returns the options: `GpuOptions::default().tier(Tier::Gpu)`.
macro_rules! setters {
    ($options:ty { $($field:ident: $argument:ty),* $(,)? }) => {
        impl $options {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](#structfield.", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, value: $argument) -> Self {
                    self.$field = value.into();
                    self
                }
            )*
        }
    };
}

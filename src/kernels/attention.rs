//! The parameters of all kernels of attention; those of GPUs are launched by `ops::attention`.

crate::params! {
    /// The parameters of all attention kernels; lib/attention_params.wgsl has what follows from it.
    pub(crate) struct AttentionParams {
        sequences: u32,
        seq: u32,
        heads: u32,
        kv_heads: u32,
        /// Packs of a head of q and k.
        width: u32,
        /// Packs of a head of v and y.
        value_width: u32,
        /// For dk and dv: of the query heads that share a key's head, those to sum over.
        share_first: u32,
        share_last: u32,
        /// Keys that a query sees, its own and those before it; read only by variants with WINDOWED.
        window: u32,
        /// The factor on scores, in powers of 2: log2(e) times `scale_out`.
        scale: f32,
        /// The factor on scores.
        scale_out: f32,
        /// The factor on gradients that were there.
        beta: f32,
    }
}

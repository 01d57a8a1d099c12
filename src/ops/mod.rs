//! Differentiable operations, one a file: equation, launch, backward, f64 reference.

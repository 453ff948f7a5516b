//! The comparisons, by area.

pub mod rules;

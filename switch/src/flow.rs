//! Connection tracking: one entry per flow, both directions, owned by one worker.

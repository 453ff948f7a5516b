//! Security group policy: model ▸ lower ▸ compile ▸ lookup ▸ explain, and the oracles.

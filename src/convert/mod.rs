//! Converting.


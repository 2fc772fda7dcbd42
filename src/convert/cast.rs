//! stub to be replaced
use crate::dtype::Dtype;
/// x
pub fn is_supported(_: Dtype, _: Dtype) -> bool { false }
/// x
pub fn cast(_: Dtype, _: Dtype, _: &[u8], _: &mut [u8]) {}

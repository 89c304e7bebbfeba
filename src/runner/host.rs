//! stub
use crate::protocol::*;
/// x
#[derive(Default)]
pub struct HostRunner;
impl Runner for HostRunner { fn handle(&mut self, _r: Request) -> Response { Response::Bye } }

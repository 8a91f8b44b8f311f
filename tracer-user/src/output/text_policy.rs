// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway's objects say of a flow, for people.

use std::io;

use super::line::Style;
use super::text_state::Text;
use crate::cluster::egress::PolicyLine;
use crate::text::escape;

/// A line for each, and one for each thing that is wrong.
pub(super) fn write(text: &Text, out: &mut dyn io::Write, lines: &[PolicyLine]) -> io::Result<()> {
    for policy in lines {
        let mut line = text.line(8);
        line.put(Style::Dim, "policy  ").put(Style::Plain, &escape(&policy.text)).end(out)?;
        // Where no policy selects, that may well be as it should be.
        let style = if policy.policy.is_some() { Style::Yellow } else { Style::Plain };
        for trouble in &policy.troubles {
            line.put(Style::Plain, "        ").put(style, &escape(trouble)).end(out)?;
        }
    }
    Ok(())
}

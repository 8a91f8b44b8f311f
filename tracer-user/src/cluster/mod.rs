// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the cluster says: objects of the API server.

pub mod egress;

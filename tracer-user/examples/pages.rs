// SPDX-License-Identifier: MIT OR Apache-2.0
//! Manual pages and shell completions, from the same description of the flags that the program parses with. Run by
//! `cargo xtask dist`, with the directory to write to.

use std::fs;
use std::path::PathBuf;

use clap_complete::Shell;

fn main() -> std::io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: pages DIRECTORY");
        std::process::exit(2);
    };
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(tracer_user::cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut tracer_user::cli::command(), "egwtrace", &completions)?;
    }
    Ok(())
}

//! The simulated disk does what a disk may do, and no more: a simulation is worth as much as this.

use std::io::Write as _;
use std::path::Path;

use message_hub::model::ids::NodeId;
use message_hub::runtime::fs::{self, File};
use message_hub::runtime::sim;
use message_hub::store::data_dir::DataDir;
use message_hub::store::options::StoreOptions;
use message_hub::store::shard::ShardState;

/// Crashes directories under many seeds, and looks at what is left.
pub(crate) fn check() -> Result<(), String> {
    check_files()?;
    (0..20).try_for_each(check_data_dir).map_err(|error| format!("a data directory: {error}"))
}

/// A data directory that was opened, and its state, are there after a crash.
fn check_data_dir(seed: u64) -> anyhow::Result<()> {
    sim::seed(seed);
    let root = Path::new("/disk-check").join(format!("data-{seed}"));
    fs::create_dir_all(&root)?;
    let data = DataDir::open(&root.join("a/b"), Some(NodeId(1)))?;
    let state = data.state_path(0);
    drop(ShardState::open(&state, StoreOptions::default())?);
    fs::crash(&root)?;
    for dir in [data.raft_log_path(), data.snapshots_path(), state.join("generation-1")] {
        anyhow::ensure!(fs::exists(&dir)?, "seed {seed}: {} is gone", dir.display());
    }
    Ok(())
}

fn check_files() -> Result<(), String> {
    let (mut torn, mut whole, mut gone) = (0, 0, 0);
    for seed in 0..200 {
        sim::seed(seed);
        let dir = Path::new("/disk-check").join(seed.to_string());
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let written = write(&dir).map_err(|error| error.to_string())?;
        fs::crash(&dir).map_err(|error| error.to_string())?;
        let kept = fs::read(dir.join("kept")).map_err(|error| format!("seed {seed}: {error}"))?;
        if !kept.starts_with(b"synced") || kept.len() > written {
            return Err(format!("seed {seed}: a synced file holds {kept:?}"));
        }
        torn += u32::from(kept.len() > 6 && kept.len() < written);
        whole += u32::from(kept.len() == written);
        // The entry was not synced: the file is there whole, or not at all.
        match fs::read(dir.join("renamed")) {
            Ok(content) if content == b"content" => {}
            Ok(content) => return Err(format!("seed {seed}: a renamed file holds {content:?}")),
            Err(_) => gone += 1,
        }
    }
    if torn < 20 || whole < 5 || !(50..150).contains(&gone) {
        return Err(format!("of 200 crashes {torn} tore a file, {whole} left it, {gone} took one"));
    }
    Ok(())
}

/// A synced file with more after it, and one whose new name is not synced; the length of the first.
fn write(dir: &Path) -> std::io::Result<usize> {
    let mut kept = File::create(dir.join("kept"))?;
    kept.write_all(b"synced")?;
    kept.sync_all()?;
    File::open(dir)?.sync_all()?;
    kept.write_all(b" and more")?;
    let mut staged = File::create(dir.join("staged"))?;
    staged.write_all(b"content")?;
    staged.sync_all()?;
    fs::rename(dir.join("staged"), dir.join("renamed"))?;
    Ok(b"synced and more".len())
}

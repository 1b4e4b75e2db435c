//! A file system that can lose its power: ext4 on a loop device.
//!
//! Power is lost by `FS_IOC_SHUTDOWN` without a flush of the journal: what was synced stays, what was
//! only written is gone.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::tools::command;

/// Room for a node. The image is sparse.
const SIZE: &str = "512M";

/// One file system.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
    options: &'static str,
}

impl Disk {
    /// Makes an empty file system and mounts it.
    ///
    /// # Errors
    /// When a command fails.
    pub async fn make(
        image: PathBuf,
        mount_point: PathBuf,
        options: &'static str,
    ) -> anyhow::Result<Self> {
        let path = text(&image)?;
        command("truncate", &["-s", SIZE, path]).await?;
        command("mkfs.ext4", &["-q", "-m", "0", path]).await?;
        let disk = Self { image, mount_point, options };
        disk.mount().await?;
        Ok(disk)
    }

    /// Mounts it; the journal is replayed.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub async fn mount(&self) -> anyhow::Result<()> {
        let options = format!("loop,{}", self.options);
        command("mount", &["-o", &options, text(&self.image)?, text(&self.mount_point)?]).await?;
        Ok(())
    }

    /// Takes its power; from now on every write fails.
    ///
    /// # Errors
    /// When it still can be written to.
    pub async fn cut(&self) -> anyhow::Result<()> {
        // 0x8004587d is FS_IOC_SHUTDOWN, 2 is NOLOGFLUSH. Perl is on every Debian, and this crate
        // is free of unsafe code.
        const CUT: &str = r#"open(F, "<", $ARGV[0]) or die $!; my $how = pack("I", 2);
            ioctl(F, 0x8004587d, $how) or die $!"#;
        command("perl", &["-e", CUT, text(&self.mount_point)?]).await?;
        let probe = std::fs::write(self.mount_point.join("probe"), b"x");
        ensure!(probe.is_err(), "{} can still be written to", self.mount_point.display());
        Ok(())
    }

    /// Leaves no room on it.
    ///
    /// # Errors
    /// When there still is some.
    pub async fn fill(&self) -> anyhow::Result<()> {
        let ballast = format!("of={}", text(&self.ballast())?);
        // It ends with an error, as it must, once there is no room.
        let filled = command("dd", &["if=/dev/zero", &ballast, "bs=1M", "conv=fsync"]).await;
        ensure!(filled.is_err(), "{} has still room", self.mount_point.display());
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When the ballast cannot be deleted.
    pub async fn empty(&self) -> anyhow::Result<()> {
        if self.ballast().exists() {
            tokio::fs::remove_file(self.ballast()).await?;
        }
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.mount_point.join("ballast")
    }

    /// Unmounts it. Nothing may use it any more.
    ///
    /// # Errors
    /// When something does.
    pub async fn unmount(&self) -> anyhow::Result<()> {
        command("umount", &[text(&self.mount_point)?]).await?;
        Ok(())
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("path {} is no UTF-8", path.display()))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A real container runtime on the lab's `node1`: containerd with runc, CNI's bridge plugin on `cni0`, and one image
//! made of busybox, without a network. What is done with it is said over its socket.

mod guardian;
mod image;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
pub use guardian::main as guardian_main;

use crate::{
    Lab,
    topology::{Family, NODE1, of},
};

/// The image's name, with a shell and what else busybox has.
pub const IMAGE: &str = "localhost/busybox:1";
/// Where distributions keep CNI's plugins.
const CNI_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// Until it serves; other tests keep the machine busy.
const READY: Duration = Duration::from_secs(30);

/// A runtime that serves. It goes, with everything it runs, when this is dropped or its owner ends.
#[derive(Debug)]
pub struct Containers {
    dir: PathBuf,
    guardian: Child,
    stdin: Option<ChildStdin>,
}

/// What is missing for it on this machine; `None`: nothing.
pub fn missing() -> Option<String> {
    for program in ["containerd", "ctr", "runc", "containerd-shim-runc-v2"] {
        if find(program).is_none() {
            return Some(format!("no {program} (cargo xtask setup installs it)"));
        }
    }
    if cni_dir().is_none() {
        return Some(
            "no CNI plugins in /usr/lib/cni or /opt/cni/bin (cargo xtask setup installs them)".into(),
        );
    }
    match find("busybox") {
        None => Some("no busybox (cargo xtask setup installs it)".into()),
        Some(path) if !image::is_static(&path) => Some("busybox is not linked statically".into()),
        Some(_) => None,
    }
}

impl Containers {
    /// Starts containerd on `node1` of a lab and gives it the image.
    ///
    /// # Errors
    /// When something is [`missing`], or it does not come up.
    pub fn up(lab: &Lab) -> Result<Self> {
        if let Some(what) = missing() {
            bail!("{what}");
        }
        // Beside the lab's own directory: what is mounted here is the guardian's to take away.
        let dir = PathBuf::from(format!("/run/egwtc-{}", lab.spec().id));
        fs::create_dir_all(dir.join("cni")).context("making containerd's directory")?;
        let name = format!("egwt-{}", lab.spec().id);
        fs::write(dir.join("config.toml"), config(&dir, &cni_dir().context("no CNI plugins")?))?;
        fs::write(dir.join("cni/10-lab.conflist"), network(&dir, &name, lab.spec().ipv6))?;
        let mut command = lab.ns("node1").command(lab.helper().program())?;
        command.args(lab.helper().words()).arg("contain").arg(&dir).arg(&name);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: setsid is async-signal-safe: Ctrl-C is the owner's affair.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
        let mut guardian = command.spawn().context("starting containerd's guardian")?;
        let stdin = guardian.stdin.take();
        let stdout = guardian.stdout.take().context("no stdout")?;
        let containers = Self { dir, guardian, stdin };
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        match told.recv_timeout(READY) {
            Ok(line) if line.trim() == "ready" => {}
            _ => bail!("containerd does not come up: {}", containers.log()),
        }
        let archive = image::archive(&containers.dir, &find("busybox").context("no busybox")?)?;
        containers.ctr("k8s.io", &["images", "import", "--no-unpack", &archive.to_string_lossy()])?;
        Ok(containers)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.dir)
    }

    /// The cgroup that sandboxes are to be put below.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.dir.file_name().unwrap_or_default().to_string_lossy())
    }

    /// The end of what it says.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        text.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// A container as `ctr` and nerdctl make them, in containerd's namespace `default`: with a network namespace of its
    /// own and nothing in it. `name` is what nerdctl calls it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn run_plain(&self, id: &str, name: &str) -> Result<()> {
        let archive = self.dir.join("image.tar");
        self.ctr("default", &["images", "import", "--no-unpack", &archive.to_string_lossy()])?;
        let (cgroup, label) = (format!("{}/{id}", self.cgroup()), format!("nerdctl/name={name}"));
        let runc = self.dir.join("runc").to_string_lossy().into_owned();
        let how =
            ["run", "-d", "--null-io", "--snapshotter", "native", "--cgroup", &cgroup, "--label", &label];
        let how = [&how[..], &["--runc-root", &runc]].concat();
        self.ctr("default", &[&how[..], &[IMAGE, id, "/bin/sleep", "1000000"]].concat())
    }

    fn ctr(&self, namespace: &str, words: &[&str]) -> Result<()> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["-n", namespace]).args(words);
        let output = command.stdin(Stdio::null()).output().context("starting ctr")?;
        if !output.status.success() {
            bail!("ctr {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.guardian.wait();
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn cni_dir() -> Option<PathBuf> {
    CNI_DIRS
        .iter()
        .map(PathBuf::from)
        .find(|dir| dir.join("bridge").is_file() && dir.join("host-local").is_file())
}

/// Everything under `dir`, pods' network namespaces too; what containers cannot have in another container
/// (negative OOM scores, AppArmor) is off.
fn config(dir: &Path, cni: &Path) -> String {
    let (dir, cni) = (dir.display(), cni.display());
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  stream_server_port = "0"
  netns_mounts_under_state_dir = true
  max_container_log_line_size = -1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{dir}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{dir}/cni"
"#
    )
}

/// CNI's configuration: the lab's `cni0`, addresses from .100 on, out of the way of the lab's own pods.
fn network(dir: &Path, name: &str, ipv6: bool) -> String {
    let gateway = |family| of(&NODE1.cni0, family);
    let v4 = format!(
        r#"[{{"subnet": "{}", "rangeStart": "10.200.0.100", "rangeEnd": "10.200.0.199", "gateway": "{}"}}]"#,
        NODE1.pod_cidr[0],
        gateway(Family::V4)
    );
    let v6 = format!(
        r#", [{{"subnet": "{}", "rangeStart": "fd00:200:1::100", "rangeEnd": "fd00:200:1::199", "gateway": "{}"}}]"#,
        NODE1.pod_cidr[1],
        gateway(Family::V6)
    );
    let (ranges_v6, route_v6) = if ipv6 { (v6.as_str(), r#", {"dst": "::/0"}"#) } else { ("", "") };
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "{name}", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "mtu": 1450,
    "ipam": {{"type": "host-local", "dataDir": "{}/ipam", "ranges": [{v4}{ranges_v6}],
      "routes": [{{"dst": "0.0.0.0/0"}}{route_v6}]}}}}]}}
"#,
        dir.display()
    )
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lab that is up, and how it goes up and down.

use std::{collections::BTreeMap, net::IpAddr, process::Child, sync::Mutex, thread};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    helper::{Guard, Helper},
    links,
    ns::{self, Ns},
    rules,
    run_dir::{self, RunDir},
    spec::Spec,
    topology::{self as t, Family, NODE1, NODE2, PODS},
};

/// A lab that is up. Dropping it takes it down, unless it is kept or only attached to.
#[derive(Debug)]
pub struct Lab {
    spec: Spec,
    dir: RunDir,
    helper: Helper,
    guard: Option<Guard>,
    /// Servers which this process started, to be waited for when they are killed.
    children: Mutex<BTreeMap<String, Child>>,
    owned: bool,
}

impl Lab {
    /// Puts a lab up, with the helper found by [`Helper::find`].
    ///
    /// # Errors
    /// When the caller is not root, a tool is missing, or the id is taken. Nothing is left then.
    pub fn up(spec: Spec) -> Result<Self> {
        Self::up_with(spec, Helper::find()?)
    }

    /// Puts a lab up.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_with(spec: Spec, helper: Helper) -> Result<Self> {
        check_root()?;
        check_id(&spec.id)?;
        run_dir::sweep();
        let dir = RunDir::create(&spec)?;
        // From here on the value's Drop cleans up, and the guard if that cannot run.
        let lab = Self {
            guard: Some(helper.guard(&spec.id).inspect_err(|_| {
                let _ = dir.remove_lab();
            })?),
            spec,
            dir,
            helper,
            children: Mutex::default(),
            owned: true,
        };
        lab.build().with_context(|| format!("putting up the lab `{}`", lab.spec.id))?;
        Ok(lab)
    }

    /// A lab which somebody else put up and keeps; dropping this value does nothing to it.
    ///
    /// # Errors
    /// When there is none under this id.
    pub fn attach(id: &str, helper: Helper) -> Result<Self> {
        let dir = RunDir::of(id);
        Ok(Self { spec: dir.spec()?, dir, helper, guard: None, children: Mutex::default(), owned: false })
    }

    /// What the lab is like.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its files.
    pub fn run_dir(&self) -> &RunDir {
        &self.dir
    }

    /// The program that its processes are.
    pub fn helper(&self) -> &Helper {
        &self.helper
    }

    /// The namespace of a place: `node1`, `node2`, `ul`, `ext`, `visitor`, `podb`, `pod2`, `mesh`.
    pub fn ns(&self, place: &str) -> Ns {
        self.spec.ns(place)
    }

    /// Leaves the lab standing after this process.
    ///
    /// # Errors
    /// When that cannot be noted; the lab is taken down then.
    pub fn keep(mut self) -> Result<()> {
        self.dir.disown()?;
        self.owned = false;
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        Ok(())
    }

    /// Takes the lab down, and says what could not be.
    ///
    /// # Errors
    /// As [`RunDir::remove_lab`].
    pub fn down(mut self) -> Result<()> {
        self.owned = true;
        self.take_down()
    }

    /// Starts a server in a place under a name of its own; see [`crate::server::Serve`].
    ///
    /// # Errors
    /// When it does not come up.
    pub fn serve(&self, name: &str, place: &str, arguments: &str) -> Result<()> {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let child = self.helper.serve(&self.dir, &self.ns(place), name, &arguments)?;
        self.children().insert(name.to_owned(), child);
        Ok(())
    }

    /// Stops a server.
    ///
    /// # Errors
    /// When none of this name runs.
    pub fn stop(&self, name: &str) -> Result<()> {
        let ran = self.dir.stop(name);
        if let Some(mut child) = self.children().remove(name) {
            let _ = child.wait();
        }
        if ran { Ok(()) } else { bail!("no server `{name}` runs in the lab `{}`", self.spec.id) }
    }

    /// Runs the lab's iptables in a place with these arguments (split at blanks).
    ///
    /// # Errors
    /// When it refuses.
    pub fn iptables(&self, place: &str, family: Family, arguments: &str) -> Result<String> {
        let program = self.spec.backend.iptables(family, "");
        let mut argv = vec![program.as_str(), "-w", "5"];
        argv.extend(arguments.split_whitespace());
        self.ns(place).exec(&argv, None)
    }

    /// Feeds text to the lab's iptables-restore in a place, adding to what is there.
    ///
    /// # Errors
    /// When it refuses; nothing of the refused table is changed then.
    pub fn iptables_restore(&self, place: &str, family: Family, text: &str) -> Result<()> {
        let program = self.spec.backend.iptables(family, "-restore");
        self.ns(place).exec(&[&program, "-w", "5", "--noflush"], Some(text)).map(drop)
    }

    /// Writes a table anew from what stands in it, without the lines `drop` says.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn iptables_without(
        &self,
        place: &str,
        family: Family,
        table: &str,
        drop: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let save = self.spec.backend.iptables(family, "-save");
        let restore = self.spec.backend.iptables(family, "-restore");
        let ns = self.ns(place);
        let before = ns.exec(&[&save, "-t", table], None)?;
        let after: String = before.lines().filter(|line| !drop(line)).flat_map(|line| [line, "\n"]).collect();
        ns.exec(&[&restore, "-w", "5", "-T", table], Some(&after)).map(std::mem::drop)
    }

    /// Makes one more namespace, `lo` up. It goes with the lab.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn extra(&self, place: &str) -> Result<Ns> {
        let ns = self.ns(place);
        ns.create()?;
        ns.sysctl(&links::sysctls(&self.spec, place))?;
        ns.sh("ip link set lo up")?;
        Ok(ns)
    }

    /// Feeds lines to `ip -batch` in a place.
    ///
    /// # Errors
    /// When one fails; those before it stay.
    pub fn batch(&self, place: &str, lines: &str) -> Result<()> {
        ip(&self.ns(place), lines)
    }

    fn build(&self) -> Result<()> {
        let spec = &self.spec;
        ns::prepare_dir()?;
        let places: Vec<_> = spec.places().collect();
        each(&places, |place| {
            let ns = spec.ns(place);
            ns.create()?;
            ns.sysctl(&links::sysctls(spec, place))
        })?;
        // Cables first: the others' devices have their far ends there.
        ip(&spec.ns("ul"), &links::underlay(spec))?;
        each(&["node1", "node2", "ext"], |place| match *place {
            "ext" => ip(&spec.ns("ext"), &links::outside(spec)),
            name => self.build_node(if name == "node1" { &NODE1 } else { &NODE2 }),
        })?;
        let pods: Vec<_> = PODS.iter().filter(|pod| spec.has(pod.name)).collect();
        each(&pods, |pod| ip(&spec.ns(pod.name), &links::pod(spec, pod)))?;
        if spec.mesh {
            self.iptables_restore("mesh", Family::V4, &rules::sidecar())?;
        }
        if spec.servers { self.start_servers() } else { Ok(()) }
    }

    fn build_node(&self, node: &t::Node) -> Result<()> {
        let spec = &self.spec;
        let ns = spec.ns(node.name);
        ip(&ns, &links::node(spec, node))?;
        for family in spec.families() {
            ip_with(&ns, &["ip", family.pick("-4", "-6"), "-batch", "-"], &links::routing_rules(node))?;
        }
        ns.exec(&["bridge", "-batch", "-"], Some(&links::fdb(node)))?;
        // Loose: the pods' addresses are routed elsewhere.
        ns.sysctl(&[("ipv4/conf/egress.vxlan/rp_filter", "2")])?;
        ns.exec(&["ipset", "restore"], Some(&links::ipsets(spec)))?;
        for family in spec.families() {
            self.iptables_restore(node.name, family, &rules::node(spec, node, family))?;
        }
        Ok(())
    }

    fn start_servers(&self) -> Result<()> {
        let six = self.spec.ipv6;
        let web = |label: &str| {
            let v6 = if six { "--listen [::]:80" } else { "" };
            format!("http --listen 0.0.0.0:80 {v6} --label {label}")
        };
        let at = |kind: &str, ips: [IpAddr; 2], port: u16, label: &str| {
            let count = if six { 2 } else { 1 };
            let listen: Vec<String> = ips
                .iter()
                .take(count)
                .map(|ip| format!("--listen {}", std::net::SocketAddr::new(*ip, port)))
                .collect();
            format!("{kind} {} --label {label}", listen.join(" "))
        };
        let both = |of: fn(Family) -> IpAddr| [of(Family::V4), of(Family::V6)];
        let announced: Vec<String> =
            self.spec.families().map(|family| format!("--address {}", t::egress_ip(family))).collect();
        let mut all = vec![
            ("http-ext", "ext", web("ext")),
            ("http-pod2", "pod2", web("pod2")),
            ("http-podb", "podb", web("podb")),
            ("dns", "pod2", at("udp", both(t::pod2), 53, "dns")),
            ("echo-pod2", "pod2", at("udp", both(t::pod2), 7, "pod2")),
            ("echo-ext", "ext", at("udp", both(t::ext), 7, "ext")),
            ("eip", "node2", format!("announce --dev eth0 {}", announced.join(" "))),
        ];
        if self.spec.mesh {
            all.push(("app", "mesh", "http --listen 0.0.0.0:80 --label app".to_owned()));
            all.push(("envoy-out", "mesh", "proxy-out --listen 0.0.0.0:15001 --uid 1500".to_owned()));
            all.push(("envoy-in", "mesh", "proxy-in --listen 0.0.0.0:15003 --uid 1500".to_owned()));
        }
        each(&all, |(name, place, arguments)| self.serve(name, place, arguments))
    }

    fn take_down(&mut self) -> Result<()> {
        if !self.owned {
            return Ok(());
        }
        self.owned = false;
        let done = self.dir.remove_lab();
        for child in self.children().values_mut() {
            // Killed above by its record; one that never wrote it is killed here.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        done
    }

    fn children(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Child>> {
        // A panic while the map was held leaves a map all the same.
        self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("egwt-lab: taking down the lab `{}`: {error:#}", self.spec.id);
        }
    }
}

/// Does `work` for each item, all at the same time; the first error wins.
fn each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let workers: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        // All are waited for, so that none works on after an error has begun the cleaning up.
        let results: Vec<Result<()>> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow!("a thread of the lab panicked"))))
            .collect();
        results.into_iter().collect()
    })
}

/// Feeds lines to `ip -batch` inside a namespace.
fn ip(ns: &Ns, lines: &str) -> Result<()> {
    ip_with(ns, &["ip", "-batch", "-"], lines)
}

fn ip_with(ns: &Ns, argv: &[&str], lines: &str) -> Result<()> {
    ns.exec(argv, Some(lines)).map(drop).map_err(|error| {
        let text = format!("{error:#}");
        // "Command failed -:19" names the line of the batch.
        let number = text.rsplit_once("-:").and_then(|(_, rest)| rest.trim().parse::<usize>().ok());
        match number.and_then(|number| lines.lines().nth(number.saturating_sub(1))) {
            Some(line) => error.context(format!("at the line `{line}`")),
            None => error,
        }
    })
}

/// Whether the caller may make labs.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn check_root() -> Result<()> {
    if is_root() { Ok(()) } else { bail!("the lab needs root: it makes network namespaces") }
}

fn check_id(id: &str) -> Result<()> {
    let fine = !id.is_empty() && id.len() <= 40 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if fine { Ok(()) } else { bail!("a lab's id is of letters, digits and dashes, at most 40: not {id:?}") }
}

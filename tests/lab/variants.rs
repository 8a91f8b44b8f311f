// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a node may have besides: Calico's pods and rules, a container with a mapped port, a second
//! NIC, a larger MTU. Each is added to a lab that is up, and goes with it.

use anyhow::Result;

use crate::{
    Lab, kube_nft, links, rules,
    topology::{self as t, Family},
};

impl Lab {
    /// Adds `cpod` 192.168.236.10 to node1, a pod as Calico makes them: a `cali*` veth without
    /// bridge, proxy ARP, natOutgoing for the address pool. The nodes also get a network
    /// 192.168.21.0/24, on which `ext` is the API server, 10.96.0.1:443 as a service.
    ///
    /// With a pool of 192.168.236.0/24 all is well; one that contains the nodes is a fault.
    ///
    /// # Errors
    /// When it is there already.
    pub fn add_calico_pod(&self, pool: &str) -> Result<()> {
        self.sh("ul", "ip addr add 192.168.21.1/24 dev br0")?;
        self.sh("node1", "ip addr add 192.168.21.12/24 dev eth0")?;
        self.sh("ext", "ip addr add 192.168.21.11/24 dev eth0")?;
        let pod = self.extra("cpod")?;
        self.batch("node1", &format!(
            "link add calia9589d79281 mtu 1450 type veth peer name eth0 mtu 1450 netns {}\nlink set calia9589d79281 up\n",
            pod.name()
        ))?;
        self.ns("node1").sysctl(&[("ipv4/conf/calia9589d79281/proxy_arp", "1")])?;
        self.batch(
            "cpod",
            "link set eth0 up\naddr add 192.168.236.10/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 dev eth0\n",
        )?;
        self.sh("node1", "ip route add 192.168.236.10 dev calia9589d79281")?;
        self.ns("node1").exec(
            &["ipset", "restore"],
            Some(&format!(
                "create cali40masq-ipam-pools hash:net\ncreate cali40all-ipam-pools hash:net\n\
                 add cali40masq-ipam-pools {pool}\nadd cali40all-ipam-pools {pool}\n"
            )),
        )?;
        self.iptables_restore(
            "node1",
            Family::V4,
            "*nat\n:cali-nat-outgoing - [0:0]\n\
             -A cali-nat-outgoing -m comment --comment \"cali:flqWnvo8yq4ULQLa\" -m set --match-set cali40masq-ipam-pools src \
             -m set ! --match-set cali40all-ipam-pools dst -j MASQUERADE --random-fully\n\
             -I POSTROUTING -j cali-nat-outgoing\n\
             -I KUBE-SERVICES -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination 192.168.21.11:6443\nCOMMIT\n",
        )?;
        self.serve("api", "ext", "http --listen 192.168.21.11:6443 --label apiserver")
    }

    /// Makes node1 a Calico node: Felix' chains, inserted on top (its default) or appended, with
    /// natOutgoing for the pods or without, and no masquerading by flannel.
    ///
    /// # Errors
    /// When they are there already.
    pub fn add_calico_rules(&self, insert: bool, masquerade: bool) -> Result<()> {
        let pods = t::cluster_cidr(Family::V4);
        let mut sets =
            "create cali40masq-ipam-pools hash:net\ncreate cali40all-ipam-pools hash:net\n".to_owned();
        sets.push_str(&format!("add cali40all-ipam-pools {pods}\n"));
        if masquerade {
            sets.push_str(&format!("add cali40masq-ipam-pools {pods}\n"));
        }
        self.ns("node1").exec(&["ipset", "restore"], Some(&sets))?;
        self.iptables_restore("node1", Family::V4, &rules::calico(insert))?;
        self.iptables_without("node1", Family::V4, "nat", |line| line.contains("FLANNEL"))
    }

    /// Makes kube-proxy of both nodes one in nftables mode.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn use_nftables_kube_proxy(&self, family: Family) -> Result<()> {
        for node in [&t::NODE1, &t::NODE2] {
            for table in ["nat", "filter"] {
                self.iptables_without(node.name, family, table, |line| line.contains("KUBE-"))?;
            }
            self.ns(node.name).exec(&["nft", "-f", "-"], Some(&kube_nft::text(family)))?;
        }
        Ok(())
    }

    /// Adds `ctr`, a container of nerdctl on node1, whose port 443 is mapped to the node's.
    ///
    /// # Errors
    /// When it is there already.
    pub fn add_container(&self) -> Result<()> {
        self.extra("ctr")?;
        let veth = links::host_veth(self.spec(), "ctr", "vethctr", "nerdctl0", 1500);
        self.batch("node1", &format!(
            "link add nerdctl0 type bridge forward_delay 0\nlink set nerdctl0 up\naddr add 10.4.0.1/24 dev nerdctl0\n{veth}"
        ))?;
        self.batch(
            "ctr",
            "link set eth0 up\naddr add 10.4.0.2/24 dev eth0\nroute add default via 10.4.0.1\n",
        )?;
        self.iptables_restore(
            "node1",
            Family::V4,
            "*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
             -A CNI-HOSTPORT-DNAT -p tcp --dport 443 -j DNAT --to-destination 10.4.0.2:443\n\
             -A POSTROUTING -s 10.4.0.0/24 ! -o nerdctl0 -j MASQUERADE\nCOMMIT\n",
        )?;
        self.serve("ctr", "ctr", "http --listen 0.0.0.0:443 --label ctr")
    }

    /// Gives node1 a second NIC, `eth1` 172.16.26.11 with rp_filter=1, and makes the router send
    /// what is for node1 through it.
    ///
    /// # Errors
    /// When it is there already.
    pub fn add_second_nic(&self) -> Result<()> {
        self.sh(
            "node1",
            &format!("ip link add eth1 type veth peer name p-node1b netns {}", self.ns("ul").name()),
        )?;
        self.batch("ul", "link set p-node1b up\naddr add 172.16.26.1/24 dev p-node1b\n")?;
        self.batch("node1", "link set eth1 up\naddr add 172.16.26.11/24 dev eth1\n")?;
        self.ns("node1").sysctl(&[("ipv4/conf/eth1/rp_filter", "1")])?;
        self.sh("ext", "ip route add 172.16.25.11 via 172.16.25.1")?;
        self.sh("ul", "ip route add 172.16.25.11 via 172.16.26.11 dev p-node1b")?;
        self.ns("ul").sysctl(&[("ipv4/conf/all/send_redirects", "0"), ("ipv4/conf/br0/send_redirects", "0")])
    }

    /// Gives the visitor's side of the pod network the underlay's MTU, 1500.
    ///
    /// # Errors
    /// When a device is missing.
    pub fn raise_pod_mtu(&self) -> Result<()> {
        self.sh("node1", "ip link set cni0 mtu 1500")?;
        self.sh("node1", "ip link set vethpod mtu 1500")?;
        self.sh("visitor", "ip link set eth0 mtu 1500").map(drop)
    }
}

//! Paths for tests: signed and addressed by the real Nix (2.8), and made up ones.

use peerix_store::nix::{NarHash, NarInfo, PathInfo, StorePath, TrustedPublicKey};

use crate::narinfo::fingerprint;

/// The key that signed [`SIGNED`] and [`SOURCE`].
pub(crate) const VECTOR_KEY: &str = "vector-1:ySHE64U3am04Omdj/HKI83vIJS+oAMIqv5g73MUbYYM=";

/// `builtins.toFile`, with two references, `nix store sign`ed, as `nix copy` wrote it.
pub(crate) const SIGNED: &str = "\
StorePath: /nix/store/94chb4q6wlhg51sr6vdq0ggyjv4bdq88-x
URL: nar/0ark1733r5z8bscmzfz9yn2682ym9dfh85b0all0kwn1f5kgrlfr.nar
Compression: none
FileHash: sha256:0ark1733r5z8bscmzfz9yn2682ym9dfh85b0all0kwn1f5kgrlfr
FileSize: 208
NarHash: sha256:0ark1733r5z8bscmzfz9yn2682ym9dfh85b0all0kwn1f5kgrlfr
NarSize: 208
References: 3qxcknynrpqada68505x6glcp8wfpm7x-t h7ykixcqj4y9jnr1h408j009121fqrc0-u
Sig: vector-1:pkEFnzFw9HcVo2Y69A6rH5ANrP7lhBE6syMNXXL5sj+peyNLTCSZKSI8tlY/O1/crXZAtkOOFjIvZnGZFduCDg==
CA: text:sha256:001ffjxby586rpmhfg5fcnis2r3ix5xnr11da98agz909j1r5308
";

/// `nix-store --add-fixed --recursive sha256`, signed too.
pub(crate) const SOURCE: &str = "\
StorePath: /nix/store/6hyrh5b55wbs95lnk14rpbynz9qja3zd-src
URL: nar/0bkmh4s9a4ziq4scg1rj78inv6g3zmycgm94qw1qgpr80sqp8nxh.nar
Compression: none
FileHash: sha256:0bkmh4s9a4ziq4scg1rj78inv6g3zmycgm94qw1qgpr80sqp8nxh
FileSize: 480
NarHash: sha256:0bkmh4s9a4ziq4scg1rj78inv6g3zmycgm94qw1qgpr80sqp8nxh
NarSize: 480
References: 
Sig: vector-1:zGZfs9PGjV6fpMNvoFTfZISlTzBvP4m3A7/FajPz1ZrUWPYg/sQf/sUAMJqhERuCsF0TQSWbOrcGzOpN15TnDw==
CA: fixed:r:sha256:0bkmh4s9a4ziq4scg1rj78inv6g3zmycgm94qw1qgpr80sqp8nxh
";

/// `nix store make-content-addressed` of [`SIGNED`]: a content address over two references.
pub(crate) const ADDRESSED: &str = "\
StorePath: /nix/store/jvlkrs12y34ir25azwbv5b7ylplkpmii-x
URL: nar/0k0v7irh66nyjr2vj5hpijckafd9yyhybk0ppd6y4ip242l8n7zz.nar
Compression: none
FileHash: sha256:0k0v7irh66nyjr2vj5hpijckafd9yyhybk0ppd6y4ip242l8n7zz
FileSize: 208
NarHash: sha256:0k0v7irh66nyjr2vj5hpijckafd9yyhybk0ppd6y4ip242l8n7zz
NarSize: 208
References: 0xw6q3wd0dqi1h0zgz9cq35wgsj2pskq-t 9zd305fa5vgl4rq152d12x3dx808w59z-u
CA: fixed:r:sha256:0k0v7irh66nyjr2vj5hpijckafd9yyhybk0ppd6y4ip242l8n7zz
";

/// `nix-store --add-fixed sha256`: addressed by the file's bytes, not by its NAR.
pub(crate) const FLAT: &str = "\
StorePath: /nix/store/dsnln8dzp7a38dkfhk9p6pldgsb5jpr5-a
URL: nar/04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw.nar
Compression: none
NarHash: sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw
NarSize: 120
References: 
CA: fixed:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq
";

pub(crate) fn public_key(text: &str) -> TrustedPublicKey {
    text.parse().unwrap()
}

/// What a narinfo says, as a peer would tell it.
pub(crate) fn path_info(narinfo: &str) -> PathInfo {
    let parsed: NarInfo = narinfo.parse().unwrap();
    PathInfo {
        store_path: parsed.store_path().clone(),
        nar_hash: parsed.nar_hash().to_nix_nixbase32_string().parse().unwrap(),
        nar_size: parsed.nar_size(),
        references: parsed.references().clone(),
        deriver: parsed.deriver().cloned(),
        signatures: parsed
            .signatures()
            .iter()
            .map(|signature| signature.to_nix_string())
            .collect(),
        content_address: parsed
            .content_address()
            .map(|address| address.to_nix_string()),
        registration_time: 0,
    }
}

/// A path whose 20 bytes are all `byte`, without references and signatures.
pub(crate) fn made_up(byte: u8, nar_hash: [u8; 32], nar_size: u64) -> PathInfo {
    PathInfo {
        store_path: StorePath::from_parts([byte; 20], "made-up-1.0").unwrap(),
        nar_hash: NarHash::from_bytes(nar_hash),
        nar_size,
        references: [].into(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
        registration_time: 1,
    }
}

/// A key pair of its own for each seed.
pub(crate) struct Signer {
    name: String,
    secret: iroh::SecretKey,
}

impl Signer {
    pub(crate) fn new(name: &str, seed: u8) -> Self {
        Self {
            name: name.to_owned(),
            secret: iroh::SecretKey::from_bytes(&[seed; 32]),
        }
    }

    pub(crate) fn public(&self) -> TrustedPublicKey {
        let key = data_encoding::BASE64.encode(self.secret.public().as_bytes());
        public_key(&format!("{}:{key}", self.name))
    }

    pub(crate) fn sign(&self, info: &PathInfo) -> String {
        let signature = self.secret.sign(fingerprint(info).as_bytes()).to_bytes();
        format!("{}:{}", self.name, data_encoding::BASE64.encode(&signature))
    }

    pub(crate) fn signed(&self, info: PathInfo) -> PathInfo {
        PathInfo {
            signatures: vec![self.sign(&info)],
            ..info
        }
    }
}

//! TLS with custom certificates: accepted and rejected servers and clients.

use std::fs;
use std::process::Command;

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Checkpointer, Layout};
use checkpointer_tests::errors::storage_error;
use checkpointer_tests::eventually::eventually;
use checkpointer_tests::redis_server::{RedisServer, free_port};
use checkpointer_tests::samples::checkpoint;
use tempfile::TempDir;

/// A folder of certificates, each `NAME.pem` with its key `NAME.key`.
struct Certificates(TempDir);

impl Certificates {
    /// Two certificate authorities. The first one signed a certificate for the
    /// server `localhost`, an expired one, and one for a client. The second one
    /// signed a certificate for a client too.
    fn new() -> Self {
        let it = Self(TempDir::new().expect("a temporary folder"));
        for authority in ["ca", "other-ca"] {
            let name = format!("-x509 -subj /CN={authority} -addext basicConstraints=critical,CA:TRUE");
            it.openssl(&format!("req {NEW_KEY} {name} -keyout {authority}.key -out {authority}.pem"));
        }
        fs::write(
            it.path("extensions"),
            "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n",
        )
        .expect("written");
        for (name, authority, days) in
            [("server", "ca", 2), ("expired", "ca", -1), ("client", "ca", 2), ("stranger", "other-ca", 2)]
        {
            it.openssl(&format!("req {NEW_KEY} -subj /CN={name} -keyout {name}.key -out {name}.request"));
            it.openssl(&format!(
                "x509 -req -in {name}.request -CA {authority}.pem -CAkey {authority}.key -CAcreateserial \
                 -days {days} -extfile extensions -out {name}.pem"
            ));
        }
        it
    }

    fn openssl(&self, words: &str) {
        let made = Command::new("openssl").args(words.split_whitespace()).current_dir(self.0.path()).output();
        let made = made.expect("openssl is installed");
        assert!(made.status.success(), "{words}: {}", String::from_utf8_lossy(&made.stderr));
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Starts a server with one of the certificates and more options. Returns its
    /// port too.
    async fn server(&self, name: &str, options: &str) -> (RedisServer, u16) {
        let (port, at) = (free_port(), |file: &str| self.path(file));
        let server = RedisServer::start_with_words(&[
            &format!("--tls-port {port} --tls-cert-file {}", at(&format!("{name}.pem"))),
            &format!("--tls-key-file {} --tls-ca-cert-file {}", at(&format!("{name}.key")), at("ca.pem")),
            options,
        ])
        .await;
        (server, port)
    }

    /// A URL with options that name files of the folder.
    fn address(&self, host: &str, port: u16, options: &[(&str, &str)]) -> String {
        let options: Vec<String> =
            options.iter().map(|(option, file)| format!("{option}={}", self.path(file))).collect();
        format!("rediss://{host}:{port}?{}", options.join("&"))
    }
}

const ANYBODY: &str = "--tls-auth-clients no";
const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";

async fn open(address: &str) -> Checkpointer {
    Checkpointer::open(address).await.expect("a checkpointer")
}

/// Saves and loads over a URL.
async fn save(address: &str) {
    let checkpointer = open(address).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 1)));
}

/// The failure of a load and a save over a URL, which must be equal.
async fn refusal(address: &str) -> (StorageReason, String) {
    let checkpointer = open(address).await;
    let load = checkpointer.latest("s").await.expect_err("no answer");
    let save = checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect_err("not saved");
    let [load, save] = [load, save].map(storage_error);
    assert_eq!(load, save);
    assert_eq!(save.effect, Effect::None, "{address}: {save}");
    (save.reason, save.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_verified_by_the_host_names_it_announces() {
    let certificates = Certificates::new();
    let cluster = format!(
        "{ANYBODY} --tls-cluster yes --cluster-enabled yes --cluster-port {} \
         --cluster-announce-hostname localhost --cluster-preferred-endpoint-type hostname",
        free_port()
    );
    let (server, port) = certificates.server("server", &cluster).await;
    server.command::<redis::Value>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    eventually("the cluster is whole", async || {
        server.command::<String>(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok")
    })
    .await;
    let open = async |ca: &str| {
        let address = certificates.address("localhost", port, &[("ca", ca)]);
        let address = format!("{}&response_timeout=2", address.replace("rediss:", "rediss-cluster:"));
        let builder = Checkpointer::builder().layout(Layout::Partitioned);
        builder.open(&address).await.expect("a checkpointer")
    };
    let trusting = open("ca.pem").await;
    trusting.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    assert_eq!(trusting.clear_all().await.expect("cleared"), 1);
    let error = open("other-ca.pem").await.save(&checkpoint("s", "c", "r", 1)).await.expect_err("not saved");
    let error = storage_error(error);
    assert_eq!(
        (&*error.message, error.effect),
        (
            "the certificate of the store is not trusted; check the host name and the option `ca`",
            Effect::None
        )
    );
    assert_eq!(server.command::<u32>(&["DBSIZE"]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_verified_by_a_custom_ca() {
    let certificates = Certificates::new();
    let (server, port) = certificates.server("server", ANYBODY).await;
    save(&certificates.address("localhost", port, &[("ca", "ca.pem")])).await;
    // A file may contain several authorities.
    let both =
        ["other-ca.pem", "ca.pem"].map(|name| fs::read_to_string(certificates.path(name)).expect("read"));
    fs::write(certificates.path("both.pem"), both.concat()).expect("written");
    save(&certificates.address("localhost", port, &[("ca", "both.pem")])).await;
    assert_eq!(server.keyspace().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_an_invalid_certificate_receives_no_command() {
    let certificates = Certificates::new();
    let (server, port) = certificates.server("server", ANYBODY).await;
    let (expired, expired_port) = certificates.server("expired", ANYBODY).await;
    for (host, port, ca) in [
        ("127.0.0.1", port, "ca.pem"),
        ("localhost", port, "other-ca.pem"),
        ("localhost", expired_port, "ca.pem"),
    ] {
        let (reason, message) = refusal(&certificates.address(host, port, &[("ca", ca)])).await;
        assert_eq!(reason, StorageReason::Unavailable);
        assert_eq!(
            message, "the certificate of the store is not trusted; check the host name and the option `ca`",
            "{host} {ca}"
        );
    }
    assert_eq!(server.keyspace().await, []);
    assert_eq!(expired.keyspace().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_required_and_accepted() {
    let certificates = Certificates::new();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let options = format!("--tls-auth-clients yes --tls-protocols {version}");
        let (server, port) = certificates.server("server", &options).await;
        let with = |client: &[(&str, &str)]| {
            certificates.address("localhost", port, &[&[("ca", "ca.pem")], client].concat())
        };
        for client in [&[][..], &[("cert", "stranger.pem"), ("key", "stranger.key")]] {
            let (reason, message) = refusal(&with(client)).await;
            assert_eq!(reason, StorageReason::AccessDenied, "{version}: {message}");
            assert_eq!(
                message,
                "the store requires a client certificate that it trusts; check the options `cert` and `key`"
            );
        }
        assert_eq!(server.keyspace().await, []);
        save(&with(&[("cert", "client.pem"), ("key", "client.key")])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_invalid_tls_file_is_reported_with_its_option() {
    let certificates = Certificates::new();
    certificates.openssl("pkey -in client.key -aes256 -passout pass:x -out locked.key");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(certificates.path("broken.pem"), broken).expect("written");
    fs::write(certificates.path("empty.pem"), "").expect("written");
    let client = |cert, key| vec![("ca", "ca.pem"), ("cert", cert), ("key", key)];
    for (options, option, file, fault) in [
        (vec![("ca", "nowhere.pem")], "ca", "nowhere.pem", "No such file or directory (os error 2)"),
        (vec![("ca", "empty.pem")], "ca", "empty.pem", "it contains no certificate"),
        (vec![("ca", "ca.key")], "ca", "ca.key", "it contains no certificate"),
        (vec![("ca", "broken.pem")], "ca", "broken.pem", "invalid peer certificate: BadEncoding"),
        (
            client("nowhere.pem", "client.key"),
            "cert",
            "nowhere.pem",
            "No such file or directory (os error 2)",
        ),
        (client("client.key", "client.key"), "cert", "client.key", "it contains no certificate"),
        (client("client.pem", "nowhere.key"), "key", "nowhere.key", "No such file or directory (os error 2)"),
        (
            client("client.pem", "client.pem"),
            "key",
            "client.pem",
            "it contains no private key without a passphrase",
        ),
        (
            client("client.pem", "locked.key"),
            "key",
            "locked.key",
            "it contains no private key without a passphrase",
        ),
        (client("client.pem", "server.key"), "key", "server.key", "it does not match"),
    ] {
        let address = certificates.address("localhost", 1, &options);
        let Err(error) = Checkpointer::open(&address).await else { panic!("{address} was opened") };
        let error = storage_error(error);
        assert_eq!((error.reason, error.effect), (StorageReason::InvalidArgument, Effect::None), "{error:?}");
        let file = certificates.path(file);
        let begin = format!("the option {option:?} of the store's URL: {file}: {fault}");
        assert!(error.message.starts_with(&begin), "{error}");
    }
}

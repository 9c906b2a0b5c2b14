//! How a Cassandra is started that is alone in its cluster, for tests and benches.

use std::path::Path;

/// What it does with its own Java that newer ones forbid unless they are told.
const OPENED: &str = "java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect \
    java.base/java.util java.base/java.util.concurrent java.base/java.util.concurrent.atomic java.base/java.nio \
    java.base/sun.nio.ch java.base/jdk.internal.loader java.base/jdk.internal.ref java.base/jdk.internal.reflect \
    java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.util.jar \
    jdk.management/com.sun.management.internal java.rmi/sun.rmi.transport.tcp";
const EXPORTED: &str = "java.base/jdk.internal.misc java.management.rmi/com.sun.jmx.remote.internal.rmi \
    java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.sql/java.sql";
/// It waits for no others, and its heap is small.
const JAVA: &str = "-Xms512m -Xmx512m -XX:MaxDirectMemorySize=256m -XX:+UseSerialGC -Djava.security.manager=allow \
    -Djdk.attach.allowAttachSelf=true -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=1";

/// The command, with the jars that scripts/setup brings, for the directory in which [`files`] are.
pub fn command(jars: &Path, directory: &str) -> Vec<String> {
    let jars = jars.display();
    let mut words = vec!["java".to_owned(), format!("-javaagent:{jars}/jamm-0.4.0.jar")];
    for (option, packages) in [("--add-opens", OPENED), ("--add-exports", EXPORTED)] {
        words.extend(packages.split_whitespace().map(|package| format!("{option}={package}=ALL-UNNAMED")));
    }
    words.extend(JAVA.split_whitespace().map(str::to_owned));
    words.push(format!("-Dcassandra.config=file://{directory}/cassandra.yaml"));
    words.push(format!("-Dcassandra.storagedir={directory}"));
    words.extend(["-cp".to_owned(), format!("{directory}:{jars}/*")]);
    words.push("org.apache.cassandra.service.CassandraDaemon".to_owned());
    words
}

/// Its files by their names: `port` is for clients, `storage` for other servers, of whom there are none.
pub fn files(at: &Path, port: u16, storage: u16) -> [(&'static str, String); 2] {
    let at = at.display();
    let yaml = format!(
        "cluster_name: test\nnum_tokens: 1\npartitioner: org.apache.cassandra.dht.Murmur3Partitioner\n\
         seed_provider: [{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, \
         parameters: [{{seeds: '127.0.0.1:{storage}'}}]}}]\n\
         listen_address: 127.0.0.1\nrpc_address: 127.0.0.1\nstorage_port: {storage}\nnative_transport_port: {port}\n\
         endpoint_snitch: SimpleSnitch\ndata_file_directories: [{at}/data]\ncommitlog_directory: {at}/commitlog\n\
         saved_caches_directory: {at}/saved_caches\nhints_directory: {at}/hints\ncdc_raw_directory: {at}/cdc_raw\n\
         commitlog_sync: batch\ncommitlog_segment_size: 16MiB\nauto_snapshot: false\n"
    );
    let log = "<configuration><appender name='out' class='ch.qos.logback.core.ConsoleAppender'><encoder>\
               <pattern>%d %level %msg%n</pattern></encoder></appender>\
               <root level='WARN'><appender-ref ref='out'/></root></configuration>";
    [("cassandra.yaml", yaml), ("logback.xml", log.to_owned())]
}

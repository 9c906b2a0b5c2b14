/* What ThreadSanitizer is not to report.
 *
 * The bytes of a region are its users': who reads what another writes at the same time gets either, as with a disk.
 * What orders two of them may be a message through a socket, which it does not follow from end to end.
 * tokio, under gRPC, orders what its threads share by fences too, of which it knows nothing. */
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
    /* By their files: a function that was inlined has no path in its name. */
    return "race:r3map-core/src/mapping.rs\n"
           "race:tokio::\n"
           "race:/tokio-1.\n";
}

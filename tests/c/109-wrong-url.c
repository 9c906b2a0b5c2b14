/* A wrong URL is refused with what is wrong with it and the nearest known word, and nothing is opened. */
#include "test.h"

int main(void)
{
    r3map_backend *none = NULL;
    FAILS(r3map_backend_open("fiel:///x", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT,
          "unknown scheme \"fiel\"; did you mean \"file\"?");
    FAILS(r3map_backend_open("memory:?sice=1", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT,
          "unknown parameter \"sice\"; did you mean \"size\"?");
    FAILS(r3map_backend_open("memory:?size=-1", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "size");
    FAILS(r3map_backend_open("memory:?size=1ZiB", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "size");
    FAILS(r3map_backend_open("/etc/passwd", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "is not a URL");
    FAILS(r3map_backend_open("", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "URL");
    FAILS(r3map_backend_open("file:///does/not/exist", NULL, NULL, &none), R3MAP_NOT_FOUND, "/does/not/exist");
    FAILS(r3map_backend_open("\xff\xfe", NULL, NULL, &none), R3MAP_INVALID_ARGUMENT, "the URL is not UTF-8");
    CHECK(none == NULL);
    return 0;
}

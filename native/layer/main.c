/* wherry-layer: the file system half of building images.
 *
 *   wherry-layer pack UPPER CLAMP LAYER… what a step has written, as a layer's tar on stdout
 *   wherry-layer list names|contents DRAFT COUNT LAYER… PATH…   what is at PATH in a stage, on stdout
 *   wherry-layer copy DRAFT COUNT LAYER… COUNT LAYER… [DIR] < operations
 *                                                          files from a stage or a folder into a stage
 *
 * A stage is a list of layers, lowest first: folders of the image store, seen as one by overlayfs. What a
 * step writes goes into UPPER, a folder on the disk. Everything in those folders was made by strangers'
 * programs, and this one runs as root: so it mounts in a namespace of its own, makes the stage (or UPPER) its
 * whole world, drops what it does not need of root, and lets the kernel resolve every name inside that world
 * (openat2). It knows nothing of Dockerfiles, contexts and caches: services/build/layer-tool.ts decides, this
 * performs.
 *
 * Reading order: root.c (the walls), names.c, xattr.c, links.c, then pack.c with tar.c, list.c, operation.c
 * and copy.c.
 *
 * It answers one line on standard error: "ok ENTRIES", or a verdict and why (answer.c). */

#include "layer.h"

#include <string.h>

int
main (int argc, char **argv)
{
  static char buffer[256 * 1024];
  setvbuf (stdout, buffer, _IOFBF, sizeof buffer);
  if (argc >= 4 && strcmp (argv[1], "pack") == 0)
    wy_pack (argc - 2, argv + 2);
  else if (argc >= 5 && strcmp (argv[1], "list") == 0)
    wy_list (argc - 2, argv + 2);
  else if (argc >= 5 && strcmp (argv[1], "copy") == 0)
    wy_copy (argc - 2, argv + 2);
  else
    wy_refuse ("wherry-layer", "is used as: pack UPPER CLAMP LAYER… | list names|contents DRAFT COUNT LAYER… "
                               "PATH… | copy DRAFT COUNT LAYER… COUNT LAYER… [DIR]");
  if (fflush (stdout) != 0)
    wy_fail ("write", "");
  wy_answer_ok (wy_entries ());
  return WY_OK;
}

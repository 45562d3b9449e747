// Package configs is what a user wrote, laid over the defaults, with all that is
// wrong with it said at once.
//
// The project file, sbx.yaml, is untrusted input: it arrives with a clone, and an
// agent may have edited it. So it is bounded before it is read (size, tokens,
// depth), parsed by a YAML library that keeps positions, and walked strictly: no
// anchors, aliases, tags or merge keys, no unknown or duplicate key, no value of
// another type than the key's. Each fault is a [Problem] with file, line, column
// and the line itself. A key whose feature this version lacks is a fault too:
// silence would look like protection.
//
// Scalars come from five layers, flags over SBX_* environment over sbx.yaml over
// the user's config.yaml over defaults, and viper does the laying over; lists of
// the project and the user are joined, each rule with where it stands. A
// [Config] remembers the origin of every value.
//
// What the project asks for beyond the defaults is data ([Widening]), and consent
// to it is kept by content ([Trust]), outside the project.
//
// Domain packages read no configuration: [Config.Spec] gives them their structs.
package configs

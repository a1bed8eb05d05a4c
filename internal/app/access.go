package app

import (
	"workos-relay/conf/tlsconf"
	"workos-relay/internal/admin"
	"workos-relay/internal/config"
)

// adminSecurity returns who may do what at the admin server of cfg, as the configuration was read.
func adminSecurity(cfg *config.Config) admin.Security {
	a := cfg.Admin
	t := admin.TLS{
		Pair:     a.TLS.Files("admin.tls.", a.TLS.CertFile, a.TLS.KeyFile),
		ClientCA: tlsconf.Either("admin.tls.client_ca", a.TLS.ClientCAFile, string(a.TLS.ClientCA)),
	}
	return admin.Security{Token: a.Token, TLS: t, OpenMetrics: a.OpenMetrics}
}

// liveAdminSecurity is like adminSecurity, and follows the files of the section.
func liveAdminSecurity(cfg *config.Config) (admin.Security, error) {
	s := adminSecurity(cfg)
	s.Files = cfg.Files
	var err error
	s.TokenNow, err = cfg.AdminToken()
	return s, err
}

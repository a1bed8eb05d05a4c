package source

// The event types of the Events API: those of WorkOS's OpenAPI specification 0.61, named as in the events package of WorkOS's Go
// SDK, which splits an initialism as Go does (APIKeyCreated).
//
//nolint:gosec // G101 takes two of the names for credentials
const (
	ActionAuthenticationDenied                 = "action.authentication.denied"    // opt-in
	ActionUserRegistrationDenied               = "action.user_registration.denied" // opt-in
	AgentRegistrationClaimAttemptCreated       = "agent.registration.claim.attempt.created"
	AgentRegistrationClaimCompleted            = "agent.registration.claim.completed"
	AgentRegistrationCreated                   = "agent.registration.created"
	AgentRegistrationCredentialIssued          = "agent.registration.credential.issued"
	AgentRegistrationDeleted                   = "agent.registration.deleted"
	AgentRegistrationExpired                   = "agent.registration.expired"
	AgentRegistrationOrganizationSwitched      = "agent.registration.organization.switched"
	AgentRegistrationRefreshed                 = "agent.registration.refreshed"
	AgentRegistrationRevoked                   = "agent.registration.revoked"
	APIKeyCreated                              = "api_key.created"
	APIKeyRevoked                              = "api_key.revoked"
	APIKeyUpdated                              = "api_key.updated"
	AuthenticationEmailVerificationFailed      = "authentication.email_verification_failed" // opt-in
	AuthenticationEmailVerificationSucceeded   = "authentication.email_verification_succeeded"
	AuthenticationMagicAuthFailed              = "authentication.magic_auth_failed"
	AuthenticationMagicAuthSucceeded           = "authentication.magic_auth_succeeded"
	AuthenticationMFAFailed                    = "authentication.mfa_failed" // opt-in
	AuthenticationMFASucceeded                 = "authentication.mfa_succeeded"
	AuthenticationOAuthFailed                  = "authentication.oauth_failed"
	AuthenticationOAuthSucceeded               = "authentication.oauth_succeeded"
	AuthenticationPasskeyFailed                = "authentication.passkey_failed"
	AuthenticationPasskeySucceeded             = "authentication.passkey_succeeded"
	AuthenticationPasswordFailed               = "authentication.password_failed"
	AuthenticationPasswordSucceeded            = "authentication.password_succeeded"
	AuthenticationRadarRiskDetected            = "authentication.radar_risk_detected"
	AuthenticationReauthenticationSucceeded    = "authentication.reauthentication_succeeded"
	AuthenticationSSOFailed                    = "authentication.sso_failed"
	AuthenticationSSOStarted                   = "authentication.sso_started"
	AuthenticationSSOSucceeded                 = "authentication.sso_succeeded"
	AuthenticationSSOTimedOut                  = "authentication.sso_timed_out"
	ConnectionActivated                        = "connection.activated"
	ConnectionDeactivated                      = "connection.deactivated"
	ConnectionDeleted                          = "connection.deleted"
	ConnectionSAMLCertificateRenewalRequired   = "connection.saml_certificate_renewal_required"
	ConnectionSAMLCertificateRenewed           = "connection.saml_certificate_renewed"
	DsyncActivated                             = "dsync.activated"
	DsyncDeleted                               = "dsync.deleted"
	DsyncGroupCreated                          = "dsync.group.created"
	DsyncGroupDeleted                          = "dsync.group.deleted"
	DsyncGroupUpdated                          = "dsync.group.updated"
	DsyncGroupUserAdded                        = "dsync.group.user_added"
	DsyncGroupUserRemoved                      = "dsync.group.user_removed"
	DsyncTokenCreated                          = "dsync.token.created" // opt-in
	DsyncTokenRevoked                          = "dsync.token.revoked" // opt-in
	DsyncUserCreated                           = "dsync.user.created"
	DsyncUserDeleted                           = "dsync.user.deleted"
	DsyncUserUpdated                           = "dsync.user.updated"
	EmailVerificationCreated                   = "email_verification.created"
	FlagCreated                                = "flag.created"
	FlagDeleted                                = "flag.deleted"
	FlagRuleUpdated                            = "flag.rule_updated"
	FlagUpdated                                = "flag.updated"
	GroupCreated                               = "group.created"
	GroupDeleted                               = "group.deleted"
	GroupMemberAdded                           = "group.member_added"
	GroupMemberRemoved                         = "group.member_removed"
	GroupUpdated                               = "group.updated"
	InvitationAccepted                         = "invitation.accepted"
	InvitationCreated                          = "invitation.created"
	InvitationResent                           = "invitation.resent"
	InvitationRevoked                          = "invitation.revoked"
	MagicAuthCreated                           = "magic_auth.created"
	OrganizationCreated                        = "organization.created"
	OrganizationDeleted                        = "organization.deleted"
	OrganizationUpdated                        = "organization.updated"
	OrganizationDomainCreated                  = "organization_domain.created"
	OrganizationDomainDeleted                  = "organization_domain.deleted"
	OrganizationDomainUpdated                  = "organization_domain.updated"
	OrganizationDomainVerificationFailed       = "organization_domain.verification_failed"
	OrganizationDomainVerified                 = "organization_domain.verified"
	OrganizationMembershipCreated              = "organization_membership.created"
	OrganizationMembershipDeleted              = "organization_membership.deleted"
	OrganizationMembershipUpdated              = "organization_membership.updated"
	OrganizationRoleCreated                    = "organization_role.created"
	OrganizationRoleDeleted                    = "organization_role.deleted"
	OrganizationRoleUpdated                    = "organization_role.updated"
	PasswordResetCreated                       = "password_reset.created"
	PasswordResetSucceeded                     = "password_reset.succeeded"
	PermissionCreated                          = "permission.created"
	PermissionDeleted                          = "permission.deleted"
	PermissionUpdated                          = "permission.updated"
	PipesConnectedAccountConnected             = "pipes.connected_account.connected"
	PipesConnectedAccountConnectionFailed      = "pipes.connected_account.connection_failed"
	PipesConnectedAccountDisconnected          = "pipes.connected_account.disconnected"
	PipesConnectedAccountReauthorizationNeeded = "pipes.connected_account.reauthorization_needed"
	RadarChallengeCreated                      = "radar.challenge_created"
	RoleCreated                                = "role.created"
	RoleDeleted                                = "role.deleted"
	RoleUpdated                                = "role.updated"
	SessionCreated                             = "session.created"
	SessionRevoked                             = "session.revoked"
	UserCreated                                = "user.created"
	UserDeleted                                = "user.deleted"
	UserUpdated                                = "user.updated"
	VaultBYOKKeyDeleted                        = "vault.byok_key.deleted"                // opt-in
	VaultBYOKKeyVerificationCompleted          = "vault.byok_key.verification_completed" // opt-in
	VaultDataCreated                           = "vault.data.created"                    // opt-in
	VaultDataDeleted                           = "vault.data.deleted"                    // opt-in
	VaultDataRead                              = "vault.data.read"                       // opt-in
	VaultDataUpdated                           = "vault.data.updated"                    // opt-in
	VaultDEKDecrypted                          = "vault.dek.decrypted"                   // opt-in
	VaultDEKRead                               = "vault.dek.read"                        // opt-in
	VaultKEKCreated                            = "vault.kek.created"                     // opt-in
	VaultKEKDeleted                            = "vault.kek.deleted"                     // opt-in
	VaultMetadataRead                          = "vault.metadata.read"                   // opt-in
	VaultNamesListed                           = "vault.names.listed"                    // opt-in
	WaitlistUserApproved                       = "waitlist_user.approved"
	WaitlistUserCreated                        = "waitlist_user.created"
	WaitlistUserDenied                         = "waitlist_user.denied"
)

// Names of older versions of the Go SDK.
const (
	// Deprecated: use DsyncActivated.
	DirectoryActivated = DsyncActivated
	// Deprecated: use DsyncDeleted.
	DirectoryDeleted = DsyncDeleted
	// Deprecated: use DsyncUserCreated.
	DirectoryUserCreated = DsyncUserCreated
	// Deprecated: use DsyncUserUpdated.
	DirectoryUserUpdated = DsyncUserUpdated
	// Deprecated: use DsyncUserDeleted.
	DirectoryUserDeleted = DsyncUserDeleted
	// Deprecated: use DsyncGroupCreated.
	DirectoryGroupCreated = DsyncGroupCreated
	// Deprecated: use DsyncGroupUpdated.
	DirectoryGroupUpdated = DsyncGroupUpdated
	// Deprecated: use DsyncGroupDeleted.
	DirectoryGroupDeleted = DsyncGroupDeleted
	// Deprecated: use DsyncGroupUserAdded.
	DirectoryGroupUserAdded = DsyncGroupUserAdded
	// Deprecated: use DsyncGroupUserRemoved.
	DirectoryGroupUserRemoved = DsyncGroupUserRemoved
	// Deprecated: use DsyncGroupUserRemoved.
	DirectroyGroupUserRemoved = DsyncGroupUserRemoved
	// Deprecated: use AuthenticationMFASucceeded.
	AuthenticationMfaSucceeded = AuthenticationMFASucceeded
	// Deprecated: use AuthenticationOAuthFailed.
	AuthenticationOauthFailed = AuthenticationOAuthFailed
	// Deprecated: use AuthenticationOAuthSucceeded.
	AuthenticationOauthSucceeded = AuthenticationOAuthSucceeded
	// Deprecated: use AuthenticationSSOFailed.
	AuthenticationSsoFailed = AuthenticationSSOFailed
	// Deprecated: use AuthenticationSSOSucceeded.
	AuthenticationSsoSucceeded = AuthenticationSSOSucceeded
)

// Types that the Go SDK names or named and that are no longer, or not, in the specification.
const (
	// Deprecated: use OrganizationMembershipCreated.
	OrganizationMembershipAdded = "organization_membership.added"
	// Deprecated: use OrganizationMembershipDeleted.
	OrganizationMembershipRemoved = "organization_membership.removed"
	// Deprecated: use AuthenticationReauthenticationSucceeded.
	SessionReauthenticated = "session.reauthenticated"
	// Deprecated: there is no such event; a session names its impersonator.
	UserImpersonated = "user.impersonated"
)

// defaultTypes can be subscribed to; they are what the pattern * stands for.
var defaultTypes = []string{
	AgentRegistrationClaimAttemptCreated,
	AgentRegistrationClaimCompleted,
	AgentRegistrationCreated,
	AgentRegistrationCredentialIssued,
	AgentRegistrationDeleted,
	AgentRegistrationExpired,
	AgentRegistrationOrganizationSwitched,
	AgentRegistrationRefreshed,
	AgentRegistrationRevoked,
	APIKeyCreated,
	APIKeyRevoked,
	APIKeyUpdated,
	AuthenticationEmailVerificationSucceeded,
	AuthenticationMagicAuthFailed,
	AuthenticationMagicAuthSucceeded,
	AuthenticationMFASucceeded,
	AuthenticationOAuthFailed,
	AuthenticationOAuthSucceeded,
	AuthenticationPasskeyFailed,
	AuthenticationPasskeySucceeded,
	AuthenticationPasswordFailed,
	AuthenticationPasswordSucceeded,
	AuthenticationRadarRiskDetected,
	AuthenticationReauthenticationSucceeded,
	AuthenticationSSOFailed,
	AuthenticationSSOStarted,
	AuthenticationSSOSucceeded,
	AuthenticationSSOTimedOut,
	ConnectionActivated,
	ConnectionDeactivated,
	ConnectionDeleted,
	ConnectionSAMLCertificateRenewalRequired,
	ConnectionSAMLCertificateRenewed,
	DsyncActivated,
	DsyncDeleted,
	DsyncGroupCreated,
	DsyncGroupDeleted,
	DsyncGroupUpdated,
	DsyncGroupUserAdded,
	DsyncGroupUserRemoved,
	DsyncUserCreated,
	DsyncUserDeleted,
	DsyncUserUpdated,
	EmailVerificationCreated,
	FlagCreated,
	FlagDeleted,
	FlagRuleUpdated,
	FlagUpdated,
	GroupCreated,
	GroupDeleted,
	GroupMemberAdded,
	GroupMemberRemoved,
	GroupUpdated,
	InvitationAccepted,
	InvitationCreated,
	InvitationResent,
	InvitationRevoked,
	MagicAuthCreated,
	OrganizationCreated,
	OrganizationDeleted,
	OrganizationUpdated,
	OrganizationDomainCreated,
	OrganizationDomainDeleted,
	OrganizationDomainUpdated,
	OrganizationDomainVerificationFailed,
	OrganizationDomainVerified,
	OrganizationMembershipCreated,
	OrganizationMembershipDeleted,
	OrganizationMembershipUpdated,
	OrganizationRoleCreated,
	OrganizationRoleDeleted,
	OrganizationRoleUpdated,
	PasswordResetCreated,
	PasswordResetSucceeded,
	PermissionCreated,
	PermissionDeleted,
	PermissionUpdated,
	PipesConnectedAccountConnected,
	PipesConnectedAccountConnectionFailed,
	PipesConnectedAccountDisconnected,
	PipesConnectedAccountReauthorizationNeeded,
	RadarChallengeCreated,
	RoleCreated,
	RoleDeleted,
	RoleUpdated,
	SessionCreated,
	SessionRevoked,
	UserCreated,
	UserDeleted,
	UserUpdated,
	WaitlistUserApproved,
	WaitlistUserCreated,
	WaitlistUserDenied,
}

// optInTypes stand in the specification only: the documentation offers no subscription to them, and the API may refuse them.
var optInTypes = []string{
	ActionAuthenticationDenied,
	ActionUserRegistrationDenied,
	AuthenticationEmailVerificationFailed,
	AuthenticationMFAFailed,
	DsyncTokenCreated,
	DsyncTokenRevoked,
	VaultBYOKKeyDeleted,
	VaultBYOKKeyVerificationCompleted,
	VaultDataCreated,
	VaultDataDeleted,
	VaultDataRead,
	VaultDataUpdated,
	VaultDEKDecrypted,
	VaultDEKRead,
	VaultKEKCreated,
	VaultKEKDeleted,
	VaultMetadataRead,
	VaultNamesListed,
}

// goneTypes are requested only where named in full.
var goneTypes = []string{
	OrganizationMembershipAdded,
	OrganizationMembershipRemoved,
	SessionReauthenticated,
	UserImpersonated,
}

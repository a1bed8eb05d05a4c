use serde::{Serialize, Deserialize};
use std::collections::HashMap;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DsyncUserCreated {
    /// Who or what caused the event. It can hold personal data.
    pub context: Option<Context>,

    pub created_at: String,

    pub data: Data,

    pub event: String,

    pub id: String,

    pub object: String,
}

/// Who or what caused the event. It can hold personal data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Context {
    pub actor: Option<Actor>,

    pub ajs_anonymous_id: Option<String>,

    pub client_id: Option<String>,

    pub google_analytics_client_id: Option<String>,

    pub google_analytics_sessions: Option<Vec<HashMap<String, Option<serde_json::Value>>>>,

    pub previous_attributes: Option<HashMap<String, Option<serde_json::Value>>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Actor {
    pub id: Option<String>,

    pub name: Option<String>,

    pub source: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Data {
    pub created_at: String,

    pub custom_attributes: HashMap<String, Option<serde_json::Value>>,

    pub directory_id: String,

    pub email: Option<String>,

    pub emails: Option<Vec<Email>>,

    pub first_name: Option<String>,

    pub id: String,

    pub idp_id: String,

    pub job_title: Option<String>,

    pub last_name: Option<String>,

    pub name: Option<String>,

    pub object: String,

    pub organization_id: String,

    pub raw_attributes: Option<HashMap<String, Option<serde_json::Value>>>,

    pub role: Option<PurpleRole>,

    pub roles: Option<Vec<RoleElement>>,

    pub state: String,

    pub updated_at: String,

    pub username: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Email {
    pub primary: Option<bool>,

    #[serde(rename = "type")]
    pub email_type: Option<String>,

    pub value: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PurpleRole {
    pub slug: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoleElement {
    pub slug: String,
}
